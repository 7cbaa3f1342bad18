"""The link of DiscoPOP, proposed by a language model: a blend of logistic and exponential loss by the margin."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tiltlm.core.checks import positive
from tiltlm.core.stable import bounded_exp
from tiltlm.links.link import Link


@dataclass(frozen=True)
class Blended(Link):
    """ℓ(u) = (1 − m)·(−log σ(u)) + m·e^(−u), m = σ(u/τ).

    Not convex near 0; for a tie it has two minima, ±0.48 at τ = 0.05. m·e^(−u) is computed as one exponential.
    """

    tau: float
    """Width of the blend, in units of the reward."""
    convex: ClassVar[bool] = False

    def __post_init__(self) -> None:
        positive(tau=self.tau)

    def __call__(self, margin: Float[Tensor, " B"], /) -> Float[Tensor, " B"]:
        """Return ℓ of each margin."""
        logistic = -F.logsigmoid(margin) * torch.sigmoid(-margin / self.tau)
        return logistic + bounded_exp(F.logsigmoid(margin / self.tau) - margin)
