"""`Link`, the base of links: the loss of one comparison (or one label) as a function of its margin.

The link decides how strong the gradient of a correctly ordered pair is, and what the population minimiser is.
"""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor


class Link(ABC):
    """ℓ(u), applied elementwise; u is the chosen reward minus the rejected one (or minus a baseline).

    Subclasses are frozen dataclasses and final.
    """

    @property
    @abstractmethod
    def convex(self) -> bool:
        """True if ℓ is convex in u."""

    @abstractmethod
    def __call__(self, margin: Float[Tensor, " B"], /) -> Float[Tensor, " B"]:
        """Return ℓ of each margin."""
