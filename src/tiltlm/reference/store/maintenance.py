"""Small folders for the reference store: which files to merge into one, and which to remove when it is full.

Both are safe at any moment and in any number of processes. A merged file is complete on the disk before the files that
it replaces are removed, so a crash leaves duplicates and loses nothing. A file that was removed stays readable for a
process that has memory-mapped it. The lock only saves doing the same work twice.
"""

import contextlib
import logging
import time
from collections.abc import Mapping, Set
from pathlib import Path

from tiltlm.storage.cache import entries_of, evict

log = logging.getLogger(__name__)

LOCK = "upkeep.lock"
"""Held by the process that merges or removes files in its folder."""

MANY = 32
"""Up to this many files that could still be merged are left as they are."""

FULL = 256_000_000
"""Bytes of the largest file that merging makes. It bounds the memory of a merge, and what is removed at once."""

_ABANDONED = 24 * 3600
"""Seconds after which a temporary file is taken to be left by a process that was killed."""


def to_merge(sizes: Mapping[str, int]) -> list[str]:
    """Choose the files to merge now: none, or the smaller half of those at most half full, as many as fit into one.

    Files grow from the rows of one forward to a full one. Merging the smallest first copies each row only a few times.

    Args:
        sizes: Bytes of every file, by name.
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


def make_room(folder: Path, limit: int, used: Set[Path]) -> None:
    """Remove the least recently used files of a store until the rest has at most `limit` bytes.

    Args:
        folder: The whole store, with a folder for each reference's weights.
        limit: Bytes.
        used: Files that stay in any case.
    """
    for entry in entries_of(folder, "*/*.tmp"):
        if time.time() - entry.last_used > _ABANDONED:
            entry.path.unlink(missing_ok=True)
    removed, left = evict(entries_of(folder, "*/*.arrow"), limit, used, _remove)
    if removed:
        log.info(
            "reference store %s: removed %.3g GB of the least recently used files, %.3g GB are left",
            folder,
            removed / 1e9,
            left / 1e9,
            extra={"event": "store_evicted", "removed_bytes": removed, "kept_bytes": left},
        )
    if left > limit:
        log.warning(
            "reference store %s: this run uses %.3g GB, more than reference.store_limit (%.3g GB)",
            folder,
            left / 1e9,
            limit / 1e9,
            extra={"event": "store_over_limit", "kept_bytes": left, "limit_bytes": limit},
        )


def _remove(file: Path) -> bool:
    with contextlib.suppress(OSError):  # another user's: the next oldest is removed instead
        file.unlink(missing_ok=True)
        return True
    return False
