"""Build the sdist and the wheel as a release does, look at what is in them, and run them away from the repository.

    python scripts/check_distributions.py DIST

The sources are copied first, so that nothing that lies around in the working tree gets in; the wheel is built from the
sdist. Then a new virtual environment gets the wheel, and there every public name is imported and the quickstart is run.
The sdist is installed over it and must give the same package, byte for byte.

`--dependencies-of SITE` takes the dependencies from another environment's site-packages in place of an index. That is
quicker, and does not show whether the dependencies that pyproject.toml names are enough.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAMES = "import tiltlm; [getattr(tiltlm, name) for name in dir(tiltlm)]; print(len(dir(tiltlm)), tiltlm.__version__)"
FILES = (
    "import hashlib, pathlib, tiltlm; folder = pathlib.Path(tiltlm.__file__).parent;"
    "[print(hashlib.sha256(path.read_bytes()).hexdigest(), path.relative_to(folder))"
    " for path in sorted(folder.rglob('*')) if path.is_file() and path.suffix != '.pyc']"
)
"""Prints the digest and the name of every file of the installed package."""
NEEDED = ("pyproject.toml", "README.md", "LICENSE")
"""Files that an sdist must have beside the package."""


def run(command: Sequence[str | Path], **more: object) -> str:
    """Run a command, show it, and return what it prints; an exit code other than 0 ends the script."""
    print("+", *command, flush=True)
    done = subprocess.run([str(one) for one in command], stdout=subprocess.PIPE, text=True, check=False, **more)  # type: ignore[call-overload]
    if done.returncode:
        sys.exit(f"{done.stdout}\n{' '.join(map(str, command))}: exit code {done.returncode}")
    return str(done.stdout)


def tracked_files() -> list[Path]:
    """Return the files of the repository, relative to it: those that git has or would add."""
    listed = run(["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"])
    return [Path(name) for name in sorted(set(listed.split("\0"))) if name and (ROOT / name).is_file()]


def build(folder: Path, *, isolated: bool = True) -> tuple[Path, Path]:
    """Build both distributions into a folder, and return the wheel and the sdist.

    Args:
        folder: Where they go.
        isolated: Build in an environment of its own, for which the index is asked.
    """
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "source"
        for file in tracked_files():
            if file.parts[0] != "tests":
                (source / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / file, source / file)
        options = [] if isolated else ["--no-isolation", "--skip-dependency-check"]
        run([sys.executable, "-m", "build", *options, "--outdir", folder, source])
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


def check_contents(wheel: Path, sdist: Path) -> None:
    """Require that the wheel has the package, whole and nothing else, and that the sdist has what builds it."""
    package = {str(Path(*file.parts[1:])) for file in tracked_files() if file.parts[:2] == ("src", "tiltlm")}
    with zipfile.ZipFile(wheel) as archive:
        there = set(archive.namelist())
    inside = {name for name in there if not re.match(r"tiltlm-[^/]+\.dist-info/", name)}
    if inside != package:
        sys.exit(
            f"{wheel.name}: missing {sorted(package - inside)[:9]}, not of the package {sorted(inside - package)[:9]}"
        )
    if not any(name.endswith("/licenses/LICENSE") for name in there):
        sys.exit(f"{wheel.name}: the license is missing")
    with tarfile.open(sdist) as tar:
        names = {str(Path(*Path(name).parts[1:])) for name in tar.getnames()}
    if missing := [name for name in (*NEEDED, *(f"src/{one}" for one in package)) if name not in names]:
        sys.exit(f"{sdist.name}: missing {missing[:9]}")
    print(f"{wheel.name}: {len(inside)} files, {wheel.stat().st_size / 1e6:.1f} MB; {sdist.name}")


def make_environment(folder: Path, dependencies_of: Path | None) -> Path:
    """Make a virtual environment and return its Python."""
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    if dependencies_of is None:
        pinned = re.search(r"^torch==\S+", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
        assert pinned is not None
        run([python, "-m", "pip", "install", "--quiet", pinned[0]])
    else:
        site = run([python, "-c", "import site; print(site.getsitepackages()[0])"]).strip()
        Path(site, "dependencies.pth").write_text(f"{dependencies_of}\n", encoding="utf-8")
    return python


def try_out(python: Path, wheel: Path, sdist: Path, folder: Path, dependencies_of: Path | None) -> None:
    """Install the wheel, import every public name and run the quickstart; then the sdist in its place."""
    pip = [python, "-m", "pip", "install", "--quiet"]
    run([*pip, *(["--no-deps"] if dependencies_of else ["-c", ROOT / "constraints.txt"]), wheel])
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    away = {"cwd": folder, "env": {**environment, "HF_HUB_OFFLINE": "1"}}
    print(run([python, "-I", "-c", NAMES], **away).strip())
    program = python.parent / "tiltlm"
    run([program, "quickstart", "--output", folder / "quickstart"], **away)
    for name in ("report.html", "report.json", "model/config.json"):
        if not (folder / "quickstart" / name).stat().st_size:
            sys.exit(f"the quickstart left no {name}")
    print(run([program, "runs", folder], **away))
    of_wheel = run([python, "-I", "-c", FILES], **away)
    if dependencies_of is not None:  # without an index, only this environment can build it
        run(
            [
                sys.executable,
                "-m",
                "pip",
                "wheel",
                "--quiet",
                "--no-deps",
                "--no-build-isolation",
                "--wheel-dir",
                folder / "again",
                sdist,
            ]
        )
        (sdist,) = (folder / "again").glob("*.whl")
    run([*pip, "--force-reinstall", "--no-deps", sdist])
    if differing := set(of_wheel.splitlines()) ^ set(run([python, "-I", "-c", FILES], **away).splitlines()):
        sys.exit(f"the sdist does not give the package of the wheel: {sorted(differing)[:9]}")
    print(run([python, "-I", "-c", NAMES], **away).strip())


def main(arguments: Sequence[str]) -> None:
    """Build, check and try both distributions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dist", type=Path, help="new folder for both distributions")
    parser.add_argument("--dependencies-of", type=Path, help="site-packages with the dependencies")
    given = parser.parse_args(arguments)
    if given.dist.exists() and any(given.dist.iterdir()):
        sys.exit(f"{given.dist} is not empty")
    wheel, sdist = build(given.dist.absolute(), isolated=given.dependencies_of is None)
    check_contents(wheel, sdist)
    with tempfile.TemporaryDirectory() as name:
        python = make_environment(Path(name) / "environment", given.dependencies_of)
        try_out(python, wheel, sdist, Path(name), given.dependencies_of)


if __name__ == "__main__":
    main(sys.argv[1:])
