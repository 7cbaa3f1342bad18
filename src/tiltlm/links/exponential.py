"""The exponential link, as in boosting. Its minimiser is ½ logit p: the same tilt as the logistic one at twice β."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Exponential:
    """ℓ(u) = e^(−u). Convex and decreasing; a pair that is wrong by u nats weighs e^u, so outliers rule."""

    convex: ClassVar[bool] = True

    def __call__(self, margin: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return torch.exp(-margin)
