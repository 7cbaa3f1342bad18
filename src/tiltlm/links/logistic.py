"""The logistic link: maximum likelihood under Bradley–Terry. Its minimiser is logit p, consistent for any rewards."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tiltlm.core.checks import finite
from tiltlm.links.link import Link


@dataclass(frozen=True)
class Logistic(Link):
    """ℓ(u) = −log σ(u − margin).

    Convex and decreasing. With margin 0, ℓ(u) − ℓ(−u) = −u and the minimiser under P(chosen ≻ rejected) = p is logit p;
    for p = 1 there is no minimiser: the margin grows without bound.
    """

    margin: float = 0.0
    """Margin at which the loss is log 2, in units of the reward."""
    convex: ClassVar[bool] = True

    def __post_init__(self) -> None:
        finite(margin=self.margin)

    def __call__(self, margin: Float[Tensor, " B"], /) -> Float[Tensor, " B"]:
        """Return ℓ of each margin."""
        return -F.logsigmoid(margin - self.margin)
