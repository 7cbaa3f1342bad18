"""The allocator's setting, measured by the pages that a process asks the system for, and what its module imports."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
import torch
from tiltlm.training.allocator import keep_freed_memory

def work():
    parts = [torch.ones(12, 1024, 1024) for _ in range(4)]  # 48 MB each, more than the C library keeps by default
    return float(sum(part[0, 0, 0] for part in parts))

def pages():
    for _ in range(2):  # until the heap has its size: its first growth may leave a gap
        work()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

as_it_comes = pages()
assert keep_freed_memory()
print(pages(), as_it_comes)
"""


def run(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_used_again():
    """Three times 192 MB are 147,456 pages of 4 KiB, or almost none if freed memory is kept."""
    kept, as_it_comes = map(int, run(PROGRAM).split())
    assert kept < 0.2 * as_it_comes


IMPORTS = """
import sys
import tiltlm.training.allocator
print(*({"torch", "transformers", "tiltlm.training.loop"} & sys.modules.keys()))
tiltlm.training.train_loop
print(*({"tiltlm.training.loop"} & sys.modules.keys()))
"""


def test_a_module_of_training_does_not_import_the_others():
    """Names of the package are imported when they are first used."""
    assert run(IMPORTS).splitlines() == ["", "tiltlm.training.loop"]
