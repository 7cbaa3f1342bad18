"""`scripts/audit.py` fails where packages could not be looked up, which pip-audit itself does not."""

import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("audit", ROOT / "scripts" / "audit.py")
audit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(audit)

LOCK = """\
numpy==2.0 \\
    --hash=sha256:00
    # via tiltlm
colorama==0.4 ; sys_platform == 'win32' \\
    --hash=sha256:01
Rich==15.0
"""
CLEAN = [{"name": "numpy", "version": "2.0", "vulns": []}, {"name": "rich", "version": "15.0", "vulns": []}]
HOLE = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2.1"]}
VULNERABLE = [{**CLEAN[0], "vulns": [HOLE]}, CLEAN[1]]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Return a function that audits a lock with a pip-audit that says this; it returns the exit code and the errors."""
    (tmp_path / "some.lock").write_text(LOCK)

    def audited(said: object = None, *, code: int = 0, script: str | None = None, exceptions: str = "", lock=LOCK):
        text = said if isinstance(said, str) else json.dumps({"dependencies": said, "fixes": []})
        program = tmp_path / "bin" / "pip-audit"
        program.parent.mkdir(exist_ok=True)
        body = script or f"import sys\nprint({text!r})\nprint('why', file=sys.stderr)\nsys.exit({code})"
        program.write_text(f"#!{sys.executable}\n{body}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
        (tmp_path / "some.lock").write_text(lock)
        (tmp_path / "exceptions.toml").write_text(exceptions)
        found = audit.main([str(tmp_path / "some.lock"), "--exceptions", str(tmp_path / "exceptions.toml")])
        return found, capsys.readouterr().err

    return audited


def exception(**changes) -> str:
    entry = {"id": '"CVE-1"', "package": '"numpy"', "reason": '"it is not called"', "until": "2099-01-01", **changes}
    return "[[exception]]\n" + "".join(f"{key} = {value}\n" for key, value in entry.items() if value)


def test_all_looked_up_and_nothing_found(run):
    assert run(CLEAN) == (0, "")


@pytest.mark.parametrize(
    "said",
    [
        [CLEAN[0], {"name": "rich", "skip_reason": "Dependency not found on PyPI and could not be audited"}],
        [CLEAN[0]],
        [CLEAN[0], {**CLEAN[1], "version": "14.0"}],
        [],
        "no JSON",
        "",
        '{"fixes": []}',
    ],
)
def test_what_was_not_looked_up_is_a_failure(run, said):
    code, errors = run(said)
    assert code == 2
    assert "some.lock" in errors


def test_a_program_that_fails_does_not_end_or_is_missing_is_a_failure(run, monkeypatch):
    assert run("", code=1)[0] == 2
    monkeypatch.setattr(audit, "SECONDS", 0.5)
    assert run(script="import time\ntime.sleep(60)")[0] == 2
    monkeypatch.setattr(audit.shutil, "which", lambda name, path=None: None)
    code, errors = run(CLEAN)
    assert (code, errors.count("error: ")) == (2, 1)


def test_an_empty_lock_is_a_failure(run):
    assert run(CLEAN, lock="# nothing\n")[0] == 2


def test_a_vulnerability_fails_by_name(run):
    code, errors = run(VULNERABLE, code=1)
    assert code == 1
    for part in ("numpy", "2.0", "PYSEC-1", "2.1"):
        assert part in errors


def test_an_exception_holds_until_its_last_day(run):
    assert run(VULNERABLE, code=1, exceptions=exception()) == (0, "")
    assert run(VULNERABLE, code=1, exceptions=exception(until="2020-01-01"))[0] == 1
    assert run(VULNERABLE, code=1, exceptions=exception(package='"rich"'))[0] == 1


@pytest.mark.parametrize("missing", ["id", "package", "reason", "until"])
def test_an_exception_needs_a_reason_and_a_day(run, missing):
    assert run(VULNERABLE, code=1, exceptions=exception(**{missing: None}))[0] == 1


def test_the_exceptions_of_the_repository_can_be_read():
    assert audit.read_exceptions(audit.EXCEPTIONS, audit.datetime.date(2026, 1, 1))[1] == []


@pytest.mark.parametrize("lock", sorted((ROOT / "requirements").glob("*.lock")), ids=lambda path: path.name)
def test_every_package_of_a_lock_has_hashes_and_the_version_of_constraints_txt(lock):
    text = lock.read_text()
    packages = audit.packages_of(text)
    assert len(packages) > 40
    lines = text.replace("\\\n", "").splitlines()
    assert all("--hash=sha256:" in line for line in lines if line and not line.lstrip().startswith("#"))
    pins = audit.packages_of((ROOT / "constraints.txt").read_text())
    assert {name: packages[name] for name in pins if name in packages} == {
        name: pins[name] for name in pins if name in packages
    }
    assert "torch" not in packages
