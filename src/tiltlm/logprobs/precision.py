"""The precision of matrix products: bf16 only where it is faster. On CPUs that is rare and quick to measure."""

import time
from typing import Literal

import torch

from tiltlm.core.errors import ModelError
from tiltlm.core.notes import Note

Precision = Literal["float32", "bf16"]


def choose_precision(
    requested: Literal["auto"] | Precision, device: torch.device, weights: str = "float32"
) -> tuple[Precision, Note]:
    """Return the precision of matrix products, and the reason.

    Args:
        requested: The setting.
        device: The device of the model.
        weights: The dtype of the weights. float64 weights are for checking and stay as they are.

    Raises:
        ModelError: bf16 is requested and the device has none.
    """
    if requested == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ModelError(
            f"model.precision=bf16: {torch.cuda.get_device_name(device)} has no bf16; use float32",
            code="not_supported",
            key="model.precision",
        )
    if requested != "auto":
        return requested, Note("set by model.precision", code="set")
    if weights == "float64":
        return "float32", Note("weights are float64, and so are products", code="float64_weights")
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", Note("the device has bf16 matrix units", code="bf16_units")
        return "float32", Note("the device has no bf16 matrix units", code="no_bf16_units")
    if device.type != "cpu":
        return "float32", Note(f"always used on {device.type}", code="device")
    narrow, wide = _seconds(torch.bfloat16), _seconds(torch.float32)
    reason = Note(
        f"a bf16 matrix product takes {narrow / wide:.1f} times as long as a float32 one on this CPU", code="measured"
    )
    return ("bf16" if narrow < 0.8 * wide else "float32"), reason


def _seconds(dtype: torch.dtype) -> float:
    """Return the shortest time of a few products of [128, 256] by [256, 256]: milliseconds even where emulated."""
    a, b = torch.ones(128, 256, dtype=dtype), torch.ones(256, 256, dtype=dtype)
    a @ b
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return best
