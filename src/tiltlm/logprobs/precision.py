"""The precision of matrix products: bf16 where the device has matrix units for it.

The choice depends on the device alone, so that all processes of a run and every resume of it make the same one. On a
CPU these units are Intel's AMX. The bf16 instructions of AVX-512 are not enough: on a processor that has them, training
steps took 1.5 to 1.8 times as long as in float32. Without any, products are emulated. On other processors bf16 has to
be asked for.
"""

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
    if has_bf16_units_of_cpu():
        return "bf16", Note("this CPU has bf16 matrix units (AMX)", code="bf16_units")
    return "float32", Note("this CPU has no bf16 matrix units (AMX)", code="no_bf16_units")


def has_bf16_units_of_cpu() -> bool:
    """Return whether the processor has AMX tiles for bf16."""
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16"))
