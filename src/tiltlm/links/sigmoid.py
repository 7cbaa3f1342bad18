"""The sigmoid link of KTO: a value that saturates on both sides, after Kahneman and Tversky."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from tiltlm.links.link import Link


@dataclass(frozen=True)
class Sigmoid(Link):
    """ℓ(u) = 1 − σ(u). Bounded and not convex: the gradient vanishes for very large and very small margins.

    No finite minimiser for p ≠ ½.
    """

    convex: ClassVar[bool] = False

    def __call__(self, margin: Float[Tensor, " B"], /) -> Float[Tensor, " B"]:
        """Return ℓ of each margin."""
        return torch.sigmoid(-margin)
