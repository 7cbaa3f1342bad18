"""The link of EXO: fits the policy's preference to a soft target by reverse KL, which is mode-seeking."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tiltlm.core.checks import below_half, positive
from tiltlm.links.link import Link


@dataclass(frozen=True)
class ReverseKL(Link):
    """ℓ(u) = KL( (q, 1−q) ‖ (1−ε, ε) ) = q log q/(1−ε) + (1−q) log (1−q)/ε, with q = σ(u).

    Not convex: the gradient vanishes if q is near 0 or 1, so a pair with a very wrong margin hardly changes. The
    minimiser under hard labels drawn with probability p is (2p − 1) log((1−ε)/ε), which is not Bradley–Terry's.
    """

    label_smoothing: float
    """ε, above 0 and below ½; at 0 the target's logarithm is infinite."""
    convex: ClassVar[bool] = False

    def __post_init__(self) -> None:
        positive(label_smoothing=self.label_smoothing)
        below_half(label_smoothing=self.label_smoothing)

    def __call__(self, margin: Float[Tensor, " B"], /) -> Float[Tensor, " B"]:
        """Return ℓ of each margin."""
        q = torch.sigmoid(margin)
        win = F.logsigmoid(margin) - math.log1p(-self.label_smoothing)
        lose = F.logsigmoid(-margin) - math.log(self.label_smoothing)
        return q * win + (1 - q) * lose
