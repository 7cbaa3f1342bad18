"""Keep memory that a step freed on a CPU for the next step.

A step allocates and frees the same large tensors as the step before it. The C library returns such blocks to the system
at once, so that every step asks for them again, page by page, and the system fills each page with zeros first.
Accelerators have caching allocators for the same reason.
"""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Numbers of these parameters in glibc's malloc.h."""


def keep_freed_memory() -> bool:
    """Keep freed blocks of up to 2 GiB in this process from now on, and return whether the C library can do it.

    glibc can. No result changes, and neither does the peak of memory: what is kept has been in use before.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # Both are set: setting one of them switches off the rule by which glibc raises the second threshold.
    return bool(mallopt(_TRIM_THRESHOLD, -1)) and bool(mallopt(_MMAP_THRESHOLD, 2**31 - 1))
