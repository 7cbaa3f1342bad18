"""What a link is: the loss of one comparison (or one label) as a function of its margin.

The link alone decides what happens to a pair that is already right, and with it the population minimiser.
"""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Link(Protocol):
    """ℓ(u), applied elementwise; u is the chosen reward minus the rejected one (or minus a baseline)."""

    @property
    def convex(self) -> bool:
        """Whether ℓ is convex in u."""
        ...

    def __call__(self, margin: Float[Tensor, " B"]) -> Float[Tensor, " B"]: ...
