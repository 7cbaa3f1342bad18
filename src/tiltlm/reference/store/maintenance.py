"""Keeping the store's folder small: which files to merge into one, and which to remove when it is full.

Both are safe at any moment and in any number of processes: a merged file is whole on the disk before what it replaces
is removed, so that a crash leaves duplicates and no gap, and a reader keeps what it has mapped, removed or not. The
lock saves work done twice, nothing else.
"""

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

MANY = 32
"""So many files that could still be merged are left as they are."""

FULL = 256_000_000
"""Bytes of the largest file that merging makes: what it holds in memory, and what is removed at once, is bounded."""

_ABANDONED = 24 * 3600
"""Seconds after which nobody is going to finish a file under its temporary name."""


def to_merge(sizes: Mapping[str, int]) -> list[str]:
    """Which files to merge now: none, or the smaller half of those at most half full, as far as they fit into one.

    Taking the smallest together keeps the number of times that a row is copied low while files grow from a forward's
    worth to a full one.

    Args:
        sizes: Bytes of every file.
    """
    growing = sorted((name for name, size in sizes.items() if 2 * size <= FULL), key=lambda name: sizes[name])
    if len(growing) <= MANY:
        return []
    chosen: list[str] = []
    room = FULL
    for name in growing[: max(2, len(growing) // 2)]:
        room -= sizes[name]
        if room < 0:
            break
        chosen.append(name)
    return chosen


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write under a temporary name, made durable and renamed at the end: a reader sees all of it or none."""
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def try_lock(folder: Path) -> Iterator[bool]:
    """Inside, no other process keeps this folder; False where one is at it already, and has what is to do."""
    lock = FileLock(folder / "upkeep.lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def mark_used(path: Path) -> None:
    """Say that a file is used now. Its modification time holds that: files are never written again, and the time of
    access is not kept on many disks."""
    with contextlib.suppress(OSError):  # removed meanwhile, or another user's
        os.utime(path)


def evict(folder: Path, limit: int, used: Set[Path]) -> None:
    """Remove the least recently used files of a store until those that are left have at most `limit` bytes.

    Args:
        folder: Of the whole store, all weights.
        limit: Bytes.
        used: Files that stay in any case.
    """
    for seconds, _, path in files(folder, "*/*.tmp"):
        if time.time() - seconds > _ABANDONED:
            path.unlink(missing_ok=True)
    present = files(folder, "*/*.arrow")
    total = kept = sum(size for _, size, _ in present)
    for _, size, path in present:
        if kept > limit and path not in used:
            with contextlib.suppress(OSError):  # another user's: the next oldest goes
                path.unlink(missing_ok=True)
                kept -= size
    if kept < total:
        log.info(
            "reference store %s: removed %.3g GB that were not used for longest, %.3g GB are left",
            folder,
            (total - kept) / 1e9,
            kept / 1e9,
            extra={"event": "store_evicted", "removed_bytes": total - kept, "kept_bytes": kept},
        )
    if kept > limit:
        log.warning(
            "reference store %s: this run alone uses %.3g GB, more than reference.store_limit (%.3g GB)",
            folder,
            kept / 1e9,
            limit / 1e9,
            extra={"event": "store_over_limit", "kept_bytes": kept, "limit_bytes": limit},
        )


def files(folder: Path, pattern: str) -> list[tuple[float, int, Path]]:
    """When each file was used, its bytes and where it is; oldest first."""
    found = []
    for path in folder.glob(pattern):
        with contextlib.suppress(FileNotFoundError):  # merged or removed by another process
            stat = path.stat()
            found.append((stat.st_mtime, stat.st_size, path))
    return sorted(found)
