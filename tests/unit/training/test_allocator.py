"""The allocator's setting, seen where it works: in the pages that a process asks the system for."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from tiltlm.training.allocator import keep_freed_memory

if sys.argv[1] == "kept":
    assert keep_freed_memory()

def work():
    parts = [torch.ones(12, 1024, 1024) for _ in range(4)]  # 48 MB each, beyond what the C library keeps by itself
    return float(sum(part[0, 0, 0] for part in parts))

work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_used_again():
    """Three times 192 MB are 147,456 pages of 4 KiB to be asked for, or hardly any."""

    def pages(how: str) -> int:
        run = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
        return int(run.stdout)

    assert pages("kept") < 0.2 * pages("as it comes")
