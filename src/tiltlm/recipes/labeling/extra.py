"""The packages of the extra `label`."""

from importlib.util import find_spec

from tiltlm.core.errors import ConfigError

PACKAGES = ("alembic", "fastapi", "limits", "markdown_it", "nh3", "sqlalchemy", "textual", "uvicorn")
"""Modules that the extra brings."""


def require_label() -> None:
    """Raise if a package of the extra `label` is missing.

    Raises:
        ConfigError: One is.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"labelling needs {', '.join(missing)}: pip install 'tiltlm[label]'", code="missing_package", key="label"
        )
