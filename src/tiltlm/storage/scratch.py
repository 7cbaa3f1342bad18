"""Temporary folders that a killed process does not leave for ever: the next one that needs a folder removes them."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from tiltlm.storage.cache import try_lock

PREFIX = "tiltlm-"
LOCK = ".in-use"
"""A file in each such folder, locked by the process that uses it. The system releases the lock however it ends."""


@contextmanager
def scratch_folder(parent: Path | None = None) -> Iterator[Path]:
    """Make a temporary folder for the block, after those of processes that have ended were removed.

    Args:
        parent: Where to make it; None: in the folder for temporary files.

    Raises:
        OSError: the folder cannot be made.
    """
    parent = parent or Path(tempfile.gettempdir())
    remove_leftovers(parent)
    folder, lock = _locked_folder(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def remove_leftovers(parent: Path | None = None) -> None:
    """Remove the folders of `scratch_folder` that no process uses; those of other users stay.

    Args:
        parent: As for `scratch_folder`.
    """
    for lock in (parent or Path(tempfile.gettempdir())).glob(f"{PREFIX}*/{LOCK}"):
        with suppress(OSError), try_lock(lock) as is_free:
            if is_free:
                shutil.rmtree(lock.parent)


def _locked_folder(parent: Path) -> tuple[Path, FileLock]:
    """Return a new folder and the lock in it, which is held."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        lock = FileLock(folder / LOCK)
        with suppress(FileNotFoundError):  # another process removed the folder before it was locked
            lock.acquire()
            if (folder / LOCK).exists():
                return folder, lock
            lock.release()
