"""The logistic link: maximum likelihood under Bradley–Terry. Its minimiser is logit p, consistent for any rewards."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tiltlm.core.checks import finite


@dataclass(frozen=True)
class Logistic:
    """ℓ(u) = −log σ(u − margin).

    Convex and decreasing. With margin 0, ℓ(u) − ℓ(−u) = −u and the minimiser under P(chosen ≻ rejected) = p is logit p;
    for p = 1 there is none, the margin grows without bound.
    """

    margin: float = 0.0
    """How far the chosen reward must lead before the loss falls below log 2, in units of the reward."""
    convex: ClassVar[bool] = True

    def __post_init__(self) -> None:
        finite(margin=self.margin)

    def __call__(self, margin: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return -F.logsigmoid(margin - self.margin)
