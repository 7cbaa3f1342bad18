"""Caches on disk that several processes share: where they are, locks, and eviction of what was not used for longest."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Set
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout


def cache_folder(name: str, variable: str) -> Path:
    """Return the folder of one cache.

    Args:
        name: Its name below `tiltlm` in the platform's cache folder (Linux: `~/.cache`, or `$XDG_CACHE_HOME`).
        variable: The environment variable that overrides it.
    """
    if folder := os.environ.get(variable):
        return Path(folder)
    from platformdirs import user_cache_path  # imported here: most commands name their folders

    return user_cache_path("tiltlm", appauthor=False) / name


@contextlib.contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Try to take the lock `path` for the block, and yield whether it was taken.

    The system releases the lock when the process ends, however it ends.
    """
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def mark_used(path: Path) -> None:
    """Set a file's modification time to now: `evict` reads it as the time of its last use.

    Cached files are never written again, and many disks do not keep the time of access.
    """
    with contextlib.suppress(OSError):  # removed meanwhile, or another user's
        os.utime(path)


class CacheEntry(NamedTuple):
    """One file or folder of a cache. Entries sort by the time of their last use."""

    last_used: float
    """Seconds since the epoch."""
    size: int
    """Bytes."""
    path: Path


def entries_of(folder: Path, pattern: str) -> list[CacheEntry]:
    """Return the files in `folder` that match `pattern`, least recently used first."""
    found = []
    for path in folder.glob(pattern):
        with contextlib.suppress(FileNotFoundError):  # removed by another process
            stat = path.stat()
            found.append(CacheEntry(stat.st_mtime, stat.st_size, path))
    return sorted(found)


def evict(
    entries: Iterable[CacheEntry], limit: int, in_use: Set[Path], remove: Callable[[Path], bool]
) -> tuple[int, int]:
    """Remove the least recently used entries until the rest has at most `limit` bytes.

    Args:
        entries: All of the cache, in any order.
        limit: Bytes that may stay.
        in_use: Entries that stay in any case.
        remove: Deletes one entry and returns whether it is gone. False leaves it, and the next one is tried.

    Returns:
        Bytes removed and bytes that are left.
    """
    entries = sorted(entries)
    left = total = sum(entry.size for entry in entries)
    for entry in entries:
        if left > limit and entry.path not in in_use and remove(entry.path):
            left -= entry.size
    return total - left, left
