"""The versions that a run records."""

import platform
from importlib.metadata import PackageNotFoundError, version


def python_and_packages(*packages: str) -> dict[str, str]:
    """Return the versions of Python and of those packages that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
