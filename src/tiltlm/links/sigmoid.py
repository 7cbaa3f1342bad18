"""The sigmoid link of KTO: a value that saturates on both sides, after Kahneman and Tversky."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Sigmoid:
    """ℓ(u) = 1 − σ(u). Bounded and not convex: very good and very bad examples both lose their gradient.

    No finite minimiser for p ≠ ½.
    """

    convex: ClassVar[bool] = False

    def __call__(self, margin: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return torch.sigmoid(-margin)
