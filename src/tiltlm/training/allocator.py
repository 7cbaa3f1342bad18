"""Keep memory that a step freed on a CPU for the next step.

A step allocates and frees the same large tensors as the step before it. The C library returns such blocks to the system
at once, so that every step asks for them again, page by page, and the system fills each page with zeros first.
Accelerators have caching allocators for the same reason.
"""

import ctypes
import sys
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Numbers of these parameters in glibc's malloc.h."""
_LARGE = 128 * 1024
"""Bytes above which a freed block is returned to the system at once; glibc's own start value."""


def settle(is_sharded: bool) -> None:
    """Choose what happens to freed memory: kept where a step asks for the same again, returned where models are shared.

    Args:
        is_sharded: Processes share the model. They gather and free layers all the time, and glibc would keep several
            whole models of freed blocks, which lie between others in its heap.
    """
    if is_sharded:
        return_freed_memory()
    else:
        keep_freed_memory()


def return_freed_memory() -> bool:
    """Return large blocks to the system when they are freed, and return whether the C library can do it.

    Without this, glibc raises the size of what it returns at once to that of the largest block that was ever freed.
    """
    mallopt = _mallopt()
    return mallopt is not None and bool(mallopt(_MMAP_THRESHOLD, _LARGE))


def keep_freed_memory() -> bool:
    """Keep freed blocks of up to 2 GiB in this process from now on, and return whether the C library can do it.

    glibc can. No result changes. The peak of memory is higher: packs differ in size, so a block does not always fit
    where another one was freed, and small blocks lie between large ones (docs/memory.md, "On a CPU").
    """
    mallopt = _mallopt()
    if mallopt is None:
        return False
    # Both are set: setting one of them switches off the rule by which glibc raises the second threshold.
    return bool(mallopt(_TRIM_THRESHOLD, -1)) and bool(mallopt(_MMAP_THRESHOLD, 2**31 - 1))


def _mallopt() -> Any:
    """Return glibc's function that sets parameters of its allocator, or None where there is none."""
    return getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
