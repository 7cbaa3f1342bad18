"""Whether matrix products run in bf16: only where that is faster, which on CPUs is rare and cheap to measure."""

import time
from typing import Literal

import torch

from tiltlm.core.errors import ModelError

Precision = Literal["float32", "bf16"]


def choose_precision(
    requested: Literal["auto"] | Precision, device: torch.device, weights: str = "float32"
) -> tuple[Precision, str]:
    """The precision of matrix products, and the reason.

    Args:
        requested: What the settings say.
        device: Where the model is.
        weights: dtype of the weights; float64 ones are for checking and stay as they are.
    """
    if requested == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ModelError(
            f"model.precision=bf16: {torch.cuda.get_device_name(device)} has no bf16; use float32",
            code="not_supported",
            key="model.precision",
        )
    if requested != "auto":
        return requested, "as set"
    if weights == "float64":
        return "float32", "weights are float64, products too"
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", "the device has bf16 matrix units"
        return "float32", "the device has no bf16 matrix units"
    if device.type != "cpu":
        return "float32", f"the exact choice on {device.type}"
    narrow, wide = _seconds(torch.bfloat16), _seconds(torch.float32)
    ratio = f"a bf16 matrix product takes {narrow / wide:.1f} times as long as a float32 one on this CPU"
    return ("bf16", ratio) if narrow < 0.8 * wide else ("float32", ratio)


def _seconds(dtype: torch.dtype) -> float:
    """Shortest of a few products of [128, 256] by [256, 256]: some milliseconds in all, even where bf16 is emulated."""
    a, b = torch.ones(128, 256, dtype=dtype), torch.ones(256, 256, dtype=dtype)
    a @ b
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return best
