"""The effect of rounding on a model, measured: how far equal computations may differ.

Rounding grows with depth and with the scale of weights, so no fixed tolerance suits all models.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def rounded(model: nn.Module) -> Iterator[None]:
    """Inside the block, change what each innermost module returns by random amounts of the size of rounding.

    The size is that of the model's dtype, and of float32 where the dtype is wider: models compute norms, softmax and
    rotations in float32 at least, whatever the dtype of their weights.
    """
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    size = max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps) / 2
    generator = torch.Generator().manual_seed(0)

    def shake(output: Any) -> Any:
        if isinstance(output, tuple):
            parts = [shake(part) for part in output]
            return type(output)(*parts) if hasattr(output, "_fields") else tuple(parts)
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return output
        return output + output * (size * torch.randn(output.shape, generator=generator).to(output))

    innermost = [module for module in model.modules() if next(module.children(), None) is None]
    handles = [m.register_forward_hook(lambda _module, _inputs, output: shake(output)) for m in innermost]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
