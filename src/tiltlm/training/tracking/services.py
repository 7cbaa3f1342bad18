"""The services that show curves, each behind the same three calls. Their packages are imported when one is opened."""

import contextlib
import contextvars
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from tiltlm.storage.versions import is_installed

PROJECT = "tiltlm"
Numbers = Mapping[str, float]


class Service(Protocol):
    """A service that shows curves."""

    def log(self, numbers: Numbers, step: int) -> None:
        """Add a point to each of these curves."""

    def finish(self) -> None:
        """Write or send what is left."""


class TensorBoard:
    """Event files in the run directory, which TensorBoard reads while they grow."""

    def __init__(self, folder: Path, identity: str, config: Mapping[str, Any]) -> None:
        del identity  # the folder says which run it is
        writers = import_module("torch.utils.tensorboard" if is_installed("tensorboard") else "tensorboardX")
        target = folder / "tensorboard"
        is_new = not target.exists()
        self._writer: Any = writers.SummaryWriter(str(target))
        if is_new:
            self._writer.add_text("settings", "\n".join(f"    {key}: {value}" for key, value in config.items()))

    def log(self, numbers: Numbers, step: int) -> None:
        """Add a point to each of these curves, and have it in the file."""
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self) -> None:
        """Close the file."""
        self._writer.close()


class Trackio:
    """A run of trackio: a database of the user's, or a Space if TRACKIO_SPACE_ID names one."""

    def __init__(self, folder: Path, identity: str, config: Mapping[str, Any]) -> None:
        import trackio

        # The process's own context does not get this run: trackio would end it there once more at exit, and print that.
        start = contextvars.copy_context().run
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for results
            self._run: Any = start(
                trackio.init,
                project=PROJECT,
                name=f"{folder.name}-{identity}",
                config=dict(config),
                resume="allow",
                embed=False,
            )

    def log(self, numbers: Numbers, step: int) -> None:
        """Add a point to each of these curves."""
        self._run.log(dict(numbers), step=step)

    def finish(self) -> None:
        """Send what is left."""
        with contextlib.redirect_stdout(sys.stderr):
            self._run.finish()


class WandB:
    """A run of Weights & Biases. Its files are in the run directory; nothing that is printed is captured."""

    def __init__(self, folder: Path, identity: str, config: Mapping[str, Any]) -> None:
        import wandb

        self._run: Any = wandb.init(
            project=PROJECT,
            id=identity,
            name=folder.name,
            resume="allow",
            dir=str(folder),
            config=dict(config),
            settings=wandb.Settings(silent=True, console="off"),
        )

    def log(self, numbers: Numbers, step: int) -> None:
        """Add a point to each of these curves."""
        self._run.log(dict(numbers), step=step)

    def finish(self) -> None:
        """Send what is left."""
        self._run.finish()


SERVICES: Mapping[str, Callable[[Path, str, Mapping[str, Any]], Service]] = {
    "tensorboard": TensorBoard,
    "trackio": Trackio,
    "wandb": WandB,
}
"""Name in `training.trackers` → opens it for a run directory, the identity of the run, and its settings."""
