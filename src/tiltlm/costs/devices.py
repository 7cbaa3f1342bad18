"""Devices that a run may have: memory, peaks, bandwidths, from their makers' data sheets; and this machine's processor.

Peaks are of dense products. A run reaches a part of them, and which part depends on shapes and software:
`Device.efficiency` is an assumption, and what it is for is printed with every time.
"""

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

from tiltlm.core.errors import ConfigError

GB = 10**9
PER_NODE = 8
"""Devices in one machine, joined by its links; between machines the network is used."""
NETWORK = 50e9
"""Bytes a second that a device sends to another machine: one 400 Gb/s adapter for each, as in the reference systems of
the A100 (200 Gb/s there), H100 and later. Assumed."""
PCIE4 = 32e9
"""Bytes a second in one direction of 16 lanes of PCI Express 4.0."""


@dataclass(frozen=True)
class Device:
    """A device, and how fast it is."""

    name: str
    memory: int
    """Bytes that a process may use. For a GPU its name's GB × 10⁹: what the driver reports is a few per cent more,
    which stays as a reserve for gaps between blocks."""
    half_peak: float
    """bf16 products with float32 sums, floating-point operations a second, dense."""
    full_peak: float
    """float32 products, as torch computes them by default: without TF32."""
    bandwidth: float
    """Bytes of its own memory a second."""
    link: float
    """Bytes a second that a device sends to another one of its machine."""
    overhead: int
    """Bytes of a process beside tensors: the context of the driver and work spaces of libraries. For a CPU measured."""
    efficiency: float = 0.5
    """Share of the peak that products reach."""
    bandwidth_efficiency: float = 0.8
    """Share of the bandwidth that element-wise operations reach."""
    is_measured: bool = False
    """True if peaks and bandwidth were measured on this machine."""

    @property
    def is_cpu(self) -> bool:
        """True for the processor of a machine."""
        return self.name == "cpu"


def _gpu(name: str, memory: int, half: float, full: float, bandwidth: float, link: float) -> Device:
    """Return a GPU; peaks in 10¹² operations, bandwidth and link in 10⁹ bytes a second."""
    # Context, cuBLAS and NCCL work spaces: 1 GB is assumed, none of these devices was at hand.
    return Device(name, memory * GB, half * 1e12, full * 1e12, bandwidth * 1e9, link, GB)


GPUS: dict[str, Device] = {
    gpu.name.lower(): gpu
    for gpu in (
        # NVIDIA A100 Tensor Core GPU data sheet, SXM: NVLink 600 GB/s in both directions together.
        _gpu("A100-40GB", 40, 312, 19.5, 1555, 300e9),
        _gpu("A100", 80, 312, 19.5, 2039, 300e9),
        # NVIDIA H100 Tensor Core GPU data sheet, SXM: 1,979 TFLOPS bf16 with sparsity; NVLink 900 GB/s.
        _gpu("H100", 80, 989, 67, 3350, 450e9),
        # NVIDIA H200 Tensor Core GPU data sheet, SXM.
        _gpu("H200", 141, 989, 67, 4800, 450e9),
        # NVIDIA DGX B200 data sheet, divided by 8: 1,440 GB, 72 PFLOPS FP8 with sparsity, 64 TB/s, NVLink 14.4 TB/s;
        # bf16 is half of FP8 and dense half of sparse; float32 600 TFLOPS (HGX B200).
        _gpu("B200", 180, 2250, 75, 8000, 900e9),
        # NVIDIA L40S data sheet: 362 TFLOPS bf16 dense; no NVLink.
        _gpu("L40S", 48, 362, 91.6, 864, PCIE4),
        # NVIDIA Ada GPU architecture white paper, RTX 4090: bf16 with float32 sums.
        _gpu("RTX4090", 24, 165.2, 82.6, 1008, PCIE4),
        # NVIDIA A10G data sheet (AWS G5): 70 TFLOPS bf16 dense.
        _gpu("A10G", 24, 70, 35, 600, PCIE4),
        # NVIDIA L4 data sheet: 242 TFLOPS bf16 with sparsity; 16 lanes of PCI Express 4.0.
        _gpu("L4", 24, 121, 30.3, 300, PCIE4),
    )
}
ALIASES = {"a100-80gb": "a100", "4090": "rtx4090", "h100-80gb": "h100"}


def parse_gpus(text: str) -> tuple[int, str]:
    """Return how many devices are meant, and the name of one: `8xH100`, `H100`, `cpu`, `2xcpu`.

    Raises:
        ConfigError: the device is unknown, or the count is not positive.
    """
    match = re.fullmatch(r"(?:(\d+)\s*[x×*]\s*)?([\w-]+)", text.strip(), re.IGNORECASE)
    name = match[2].lower() if match else ""
    name = ALIASES.get(name, name)
    if match is None or (name != "cpu" and name not in GPUS):
        known = ", ".join([*(gpu.name for gpu in GPUS.values()), "cpu"])
        raise ConfigError(
            f"--gpus {text}: write a count and a device, such as 8xH100. Known devices: {known}",
            code="unknown_name",
            key="gpus",
        )
    count = int(match[1] or 1)
    if count < 1:
        raise ConfigError(f"--gpus {text}: the count must be at least 1", code="not_positive", key="gpus")
    return count, name


def this_machine(count: int, overhead: Callable[[], int]) -> Device:
    """Return this machine's processor as the device of one of `count` processes, measured for about a second.

    Args:
        count: Processes that share it, and its memory.
        overhead: Returns the bytes of a process beside tensors. It is called after products, which load their library.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    full, half = (_products(dtype) / count for dtype in (torch.float32, torch.bfloat16))
    bandwidth = _copies() / count
    return Device("cpu", memory // count, half, full, bandwidth, bandwidth, overhead(), 1.0, 1.0, is_measured=True)


def _products(dtype: torch.dtype, size: int = 768, repeats: int = 5) -> float:
    """Return the floating-point operations a second of a product of the size of a layer's, median."""
    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    return float(2 * size**3 / _seconds(lambda: a @ b, repeats))


def _copies(numbers: int = 1 << 22, repeats: int = 5) -> float:
    """Return the bytes a second that an element-wise sum reads and writes, median."""
    a, b = torch.ones(numbers), torch.ones(numbers)
    out = torch.empty(numbers)
    return 12 * numbers / _seconds(lambda: torch.add(a, b, out=out), repeats)


def _seconds(run: Callable[[], object], repeats: int) -> float:
    run()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return median(taken)
