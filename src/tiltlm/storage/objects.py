"""Objects that were given in Python, as files of the user's cache named by their content: rows and models.

A run reads the files, so it can be repeated from its config.yaml. What was not used for longest is removed.
"""

import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from tiltlm.core.errors import ConfigError
from tiltlm.storage.cache import CacheEntry, cache_folder, evict, mark_used
from tiltlm.storage.files import atomic_folder

log = logging.getLogger(__name__)

OBJECTS = ("rows", "models")
"""Folders of the cache for objects that were given in Python."""
OBJECTS_LIMIT = 50_000_000_000
"""Bytes that each of these folders may have before objects that were not used for longest are removed."""
_SURELY_USED = 7 * 24 * 3600
"""Seconds since its last use in which an object is never removed: a run or a sweep may still read it."""


def write_once(kind: str, name: str, write: Callable[[Path], object]) -> Path:
    """Return the cache folder of an object that was given in Python; write it first if it is missing.

    Objects that were not used for longest are removed afterwards if all of this kind have more than `OBJECTS_LIMIT`.

    Args:
        kind: One of `OBJECTS`.
        name: Name that is made of the content: equal names mean equal content.
        write: Writes the files into an empty folder.

    Raises:
        ConfigError: The folder cannot be written.
    """
    folder = _objects(kind) / name
    try:
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.parent / ".lock"):  # all processes of a run come here at once
                if not folder.is_dir():
                    with atomic_folder(folder) as unfinished:
                        write(unfinished)
                    _make_room(kind, folder)
    except OSError as error:
        raise ConfigError(
            f"{folder} could not be written ({error}). Set the environment variable TILTLM_CACHE to a folder with "
            f"space, or write the {kind} to a folder of your own and give its name",
            code="not_writable",
            key="TILTLM_CACHE",
        ) from error
    mark_used(folder)
    return folder


def mark_object_used(path: str, key: str) -> None:
    """Mark the cached object that a setting names as used; do nothing for any other path.

    Raises:
        ConfigError: The object is no longer in the cache.
    """
    for kind in OBJECTS:
        root = _objects(kind)
        if not Path(path).is_relative_to(root) or Path(path) == root:
            continue
        folder = root / Path(path).relative_to(root).parts[0]
        if not folder.is_dir():
            raise ConfigError(
                f"{key}: {folder} is missing. It held {kind} that were given as Python objects, and was removed from "
                "the cache. Give the same objects again: they get the same name",
                code="no_such_path",
                key=key,
            )
        mark_used(folder)


def _objects(kind: str) -> Path:
    return cache_folder("", "TILTLM_CACHE") / kind


def _make_room(kind: str, new: Path) -> None:
    """Remove objects that were not used for longest, and what interrupted processes left."""
    for unfinished in new.parent.glob(".*.tmp"):  # the lock is held: nobody writes them
        shutil.rmtree(unfinished, ignore_errors=True)
    found = []
    for folder in new.parent.iterdir():
        if folder.is_dir():
            size = sum(file.stat().st_size for file in folder.iterdir())
            found.append(CacheEntry(folder.stat().st_mtime, size, folder))
    recent = {entry.path for entry in found if time.time() - entry.last_used < _SURELY_USED}
    removed, left = evict(found, OBJECTS_LIMIT, recent | {new}, _remove_folder)
    if removed:
        log.info(
            "%s: removed %.3g GB of %s that were not used for longest; %.3g GB are left",
            new.parent,
            removed / 1e9,
            kind,
            left / 1e9,
            extra={"event": "objects_evicted", "removed_bytes": removed, "kept_bytes": left},
        )


def _remove_folder(folder: Path) -> bool:
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()
