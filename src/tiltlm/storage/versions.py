"""The packages that are installed, and their versions, which a run records."""

import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec


def python_and_packages(*packages: str) -> dict[str, str]:
    """Return the versions of Python and of those packages that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def is_installed(module: str) -> bool:
    """Return whether a module can be imported, without importing it. A plain folder of that name does not count."""
    spec = find_spec(module)
    return spec is not None and spec.origin is not None
