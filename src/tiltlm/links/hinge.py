"""The hinge link: no loss beyond a margin. Its minimiser is ±margin, with the sign of p − ½."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from tiltlm.core.checks import not_negative
from tiltlm.links.link import Link


@dataclass(frozen=True)
class Hinge(Link):
    """ℓ(u) = max(0, margin − u). Convex; zero gradient once the margin is reached."""

    margin: float = 1.0
    """In units of the reward."""
    convex: ClassVar[bool] = True

    def __post_init__(self) -> None:
        not_negative(margin=self.margin)

    def __call__(self, margin: Float[Tensor, " B"], /) -> Float[Tensor, " B"]:
        """Return ℓ of each margin."""
        return (self.margin - margin).clamp(min=0)
