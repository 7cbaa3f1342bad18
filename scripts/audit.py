"""Audit the locked packages for known vulnerabilities, and fail where that could not be done.

pip-audit ends with 0 and "No known vulnerabilities found" if the database did not answer: packages that it could not
look up are skipped. Here every package of a lock must have been looked up.

    python scripts/audit.py [LOCK ...]

Exit code: 0 every package was looked up, and none has a known vulnerability that is not excepted; 1 a vulnerability, or
an exception that is over or no longer needed; 2 something could not be audited.

An exception is an entry of requirements/audit-exceptions.toml: `id` of the vulnerability, `package`, `reason` (why it
does not matter here), and `until`, the last day on which the exception holds.
"""

import argparse
import datetime
import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
EXCEPTIONS = ROOT / "requirements" / "audit-exceptions.toml"
SECONDS = 900
"""A lock that is not audited after this time could not be audited."""


class NotAuditedError(Exception):
    """Something could not be audited."""


def packages_of(lock: str) -> dict[str, str]:
    """Return name → version of the packages that a lock file installs on this platform."""
    found = {}
    for line in lock.splitlines():
        if re.match(r"[A-Za-z0-9]", line) and "==" in line:
            requirement = Requirement(line.removesuffix("\\").strip())
            if requirement.marker is None or requirement.marker.evaluate():
                found[str(canonicalize_name(requirement.name))] = str(requirement.specifier).removeprefix("==")
    return found


def find_pip_audit() -> str:
    """Return the path of pip-audit: in PATH, or beside this Python.

    Raises:
        NotAuditedError: it is not there.
    """
    found = shutil.which("pip-audit") or shutil.which("pip-audit", path=str(Path(sys.executable).parent))
    if found is None:
        raise NotAuditedError(
            "pip-audit is not installed: python -m pip install --require-hashes -r requirements/tools.lock"
        )
    return found


def run_pip_audit(lock: Path) -> dict:
    """Return what pip-audit says about a lock file, as it says it in JSON.

    Raises:
        NotAuditedError: it is missing, does not end, or says nothing.
    """
    command = [find_pip_audit(), "-r", str(lock), "--disable-pip", "--no-deps"]
    command += ["--format", "json", "--progress-spinner", "off"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise NotAuditedError(f"pip-audit did not end within {SECONDS} seconds") from error
    try:
        said = json.loads(done.stdout)
        said["dependencies"]
    except (ValueError, KeyError, TypeError) as error:
        last = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise NotAuditedError(f"pip-audit ended with {done.returncode}: {last}") from error
    return said


def audit(lock: Path) -> list[tuple[str, str, list[str], list[str]]]:
    """Return the vulnerabilities of the packages of a lock: package, version, identifiers, versions that mend it.

    Raises:
        NotAuditedError: a package was not looked up.
    """
    expected = packages_of(lock.read_text(encoding="utf-8"))
    if not expected:
        raise NotAuditedError("it names no package")
    found, looked_up = [], {}
    for package in run_pip_audit(lock)["dependencies"]:
        name = str(canonicalize_name(package["name"]))
        if "skip_reason" in package:
            raise NotAuditedError(package["skip_reason"])
        looked_up[name] = package["version"]
        for one in package["vulns"]:
            found.append((name, package["version"], [one["id"], *one.get("aliases", ())], one.get("fix_versions", [])))
    missing = [f"{name} {version}" for name, version in expected.items() if looked_up.get(name) != version]
    if missing:
        raise NotAuditedError(f"{len(missing)} packages were not looked up, among them {missing[0]}")
    return found


def read_exceptions(path: Path, today: datetime.date) -> tuple[dict[tuple[str, str], str], list[str]]:
    """Return (package, identifier) → reason of the exceptions that hold, and complaints about the others."""
    holds, complaints = {}, []
    entries = tomllib.loads(path.read_text(encoding="utf-8")).get("exception", []) if path.exists() else []
    for entry in entries:
        named = f"{entry.get('id', '?')} of {entry.get('package', '?')}"
        missing = [key for key in ("id", "package", "reason", "until") if not entry.get(key)]
        if missing:
            complaints.append(f"the exception for {named} has no {' and no '.join(missing)}")
        elif entry["until"] < today:
            complaints.append(f"the exception for {named} was over on {entry['until']}: mend it, or decide again")
        else:
            holds[str(canonicalize_name(entry["package"])), entry["id"]] = entry["reason"]
    return holds, complaints


def locks_with_torch(locks: list[Path], folder: Path) -> list[Path]:
    """Return the lock files and one for torch, which no lock has, with its version in constraints.txt."""
    pin = re.search(r"^torch==\S+", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert pin is not None
    torch = folder / "torch.lock"
    torch.write_text(f"{pin[0]}\n", encoding="utf-8")
    return [*locks, torch]


def main(arguments: list[str]) -> int:
    """Audit lock files, print what was found, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("locks", nargs="*", type=Path, help="lock files; without any, those in requirements/ and torch")
    parser.add_argument("--exceptions", type=Path, default=EXCEPTIONS)
    given = parser.parse_args(arguments)
    try:
        find_pip_audit()
    except NotAuditedError as error:  # once, and not for each lock
        print(f"error: nothing was audited: {error}", file=sys.stderr)
        return 2
    holds, complaints = read_exceptions(given.exceptions, datetime.datetime.now(datetime.UTC).date())
    used, unaudited = set(), []
    with tempfile.TemporaryDirectory() as folder:
        locks = given.locks or locks_with_torch(sorted((ROOT / "requirements").glob("*.lock")), Path(folder))
        for lock in locks:
            try:
                vulnerabilities = audit(lock)
            except (NotAuditedError, OSError) as error:
                unaudited.append(f"{lock.name} could not be audited: {error}")
                continue
            print(f"{lock.name}: {len(packages_of(lock.read_text(encoding='utf-8')))} packages were looked up")
            for name, version, identifiers, mended in vulnerabilities:
                excepted = [(name, one) for one in identifiers if (name, one) in holds]
                used |= set(excepted)
                if excepted:
                    print(f"  excepted: {name} {version}, {identifiers[0]}: {holds[excepted[0]]}")
                else:
                    complaints.append(
                        f"{name} {version}: {identifiers[0]}; mended in {', '.join(mended) or 'no version'}"
                    )
    if not given.locks and not unaudited:
        complaints += [
            f"the exception for {one} of {name} is no longer needed" for name, one in sorted(set(holds) - used)
        ]
    for line in [*dict.fromkeys(complaints), *unaudited]:
        print(f"error: {line}", file=sys.stderr)
    return 2 if unaudited else 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
