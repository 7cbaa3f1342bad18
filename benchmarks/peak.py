"""How fast this process multiplies matrices: what a step's speed is held against. Needs torch and nothing else."""

import statistics
import time

import torch


def matrix_peak(dtype: torch.dtype = torch.float32, size: int = 2048, repeats: int = 15) -> float:
    """Floating-point operations a second of a large matrix product with the threads of this process, median."""
    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    out = a @ b
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(seconds)
