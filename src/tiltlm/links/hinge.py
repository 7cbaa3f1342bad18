"""The hinge link: no loss beyond a margin. Its minimiser is ±margin, the sign of p − ½ and nothing more."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from tiltlm.core.checks import not_negative


@dataclass(frozen=True)
class Hinge:
    """ℓ(u) = max(0, margin − u). Convex; zero gradient once the margin is reached."""

    margin: float = 1.0
    """In units of the reward."""
    convex: ClassVar[bool] = True

    def __post_init__(self) -> None:
        not_negative(margin=self.margin)

    def __call__(self, margin: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return (self.margin - margin).clamp(min=0)
