"""The version of tiltlm: that of the installed package, or of the sources if they are used without being installed."""

import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def find_version(sources: Path) -> str:
    """Return the version of the installed package; without one, that of pyproject.toml above the sources.

    Args:
        sources: The folder of this module.

    Returns:
        The version, or `unknown` if neither is there: the sources were copied without their project.
    """
    try:
        return version("tiltlm")
    except PackageNotFoundError:
        project = sources.parents[1] / "pyproject.toml"
    try:
        return str(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"])
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        return "unknown"


__version__ = find_version(Path(__file__).resolve().parent)
