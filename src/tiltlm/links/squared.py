"""The squared link of IPO: regresses the margin onto a constant. Its minimiser (2p − 1)·target is always finite."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from tiltlm.core.checks import finite
from tiltlm.links.link import Link


@dataclass(frozen=True)
class Squared(Link):
    """ℓ(u) = (u − target)². Convex; a margin above the target has the same loss as one below it by the same amount."""

    target: float
    """Optimal margin of a pair with a certain label, in units of the reward."""
    convex: ClassVar[bool] = True

    def __post_init__(self) -> None:
        finite(target=self.target)

    def __call__(self, margin: Float[Tensor, " B"], /) -> Float[Tensor, " B"]:
        """Return ℓ of each margin."""
        return (margin - self.target) ** 2
