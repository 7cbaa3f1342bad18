"""The squared link of IPO: regress the margin onto a constant. Its minimiser, (2p − 1)·target, is always finite."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from tiltlm.core.checks import finite


@dataclass(frozen=True)
class Squared:
    """ℓ(u) = (u − target)². Convex, with a minimum: a margin beyond the target is punished like one short of it."""

    target: float
    """Where the margin of a certain pair comes to rest, in units of the reward."""
    convex: ClassVar[bool] = True

    def __post_init__(self) -> None:
        finite(target=self.target)

    def __call__(self, margin: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return (margin - self.target) ** 2
