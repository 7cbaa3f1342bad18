"""What a step frees on a CPU is kept for the next one instead of going back to the system.

A step allocates and frees the same large tensors as the one before. The C library hands such blocks back at once, so
that every step gets them again page by page, each page zeroed by the system first; accelerators have had caching
allocators for the same reason from the start.
"""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Names of these parameters in glibc's malloc.h."""


def keep_freed_memory() -> bool:
    """From now on freed blocks of up to 2 GiB stay with this process; whether its C library can do that (glibc can).

    No number changes, and the peak of memory does not: what is kept is what was in use.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # Set alone, either would switch off the rule by which glibc raises the second by itself.
    return bool(mallopt(_TRIM_THRESHOLD, -1)) and bool(mallopt(_MMAP_THRESHOLD, 2**31 - 1))
