"""What training settings need beside tiltlm itself, optional packages and a login, checked without importing them."""

import os
from collections.abc import Sequence
from pathlib import Path

from tiltlm.core.errors import ConfigError
from tiltlm.storage.versions import is_installed

WITHOUT_LOGIN = ("offline", "disabled", "dryrun")
"""Values of WANDB_MODE with which W&B needs no login."""


def check_trackers(names: Sequence[str]) -> None:
    """Require the packages of the trackers, and a login of W&B.

    Raises:
        ConfigError: one of them is not installed, or W&B has no login.
    """
    packages = {"tensorboard": ("tensorboard", "tensorboardX")}  # either of the two writes its files
    if missing := [name for name in names if not any(map(is_installed, packages.get(name, (name,))))]:
        raise ConfigError(
            f"training.trackers: {', '.join(missing)} is not installed; install it (pip install {' '.join(missing)}), "
            "or remove it from the list",
            code="missing_dependency",
            key="training.trackers",
        )
    if "wandb" in names and not may_have_login():
        raise ConfigError(
            "training.trackers: wandb has no login. Run `wandb login`, set WANDB_API_KEY, or set WANDB_MODE=offline",
            code="no_login",
            key="training.trackers",
        )


def may_have_login() -> bool:
    """Return False if none of the places exists in which W&B finds a login or the wish for none.

    Its own check is not used: it starts a process of its own, and with a login it waits for the network. A file that
    exists may still hold no login; then W&B itself says so when it starts.
    """
    env, home = os.environ.get, Path.home()
    config = Path(env("WANDB_CONFIG_DIR") or home / ".config" / "wandb")
    files = [Path(env("NETRC") or home / ".netrc"), home / "_netrc", config / "settings", Path("wandb", "settings")]
    is_given = any(map(env, ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_DISABLED")))
    return is_given or env("WANDB_MODE") in WITHOUT_LOGIN or any(file.exists() for file in files)


def check_quantised(name: str) -> None:
    """Require the package of an optimiser.

    Raises:
        ConfigError: `name` is an 8-bit optimiser, and bitsandbytes is not installed.
    """
    if name != "adamw" and not is_installed("bitsandbytes"):
        raise ConfigError(
            f"training.optimizer={name} needs bitsandbytes: pip install 'tiltlm[quant]', or use adamw",
            code="missing_dependency",
            key="training.optimizer",
        )
