"""Find tensors that hold NaN or an infinity."""

from collections.abc import Mapping

import torch
from torch import Tensor


@torch.no_grad()
def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors that hold NaN or an infinity.

    The Euclidean norm over all tensors is one fast pass, and no such value is lost in it. The tensors are looked at one
    by one only where the norm is not finite; the squares of large finite values may overflow too.
    """
    numbers = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.numel()}
    if torch.nn.utils.get_total_norm(numbers.values()).isfinite():
        return []
    return [name for name, tensor in numbers.items() if not tensor.isfinite().all()]
