"""The exponential link, as in boosting. Its minimiser is ½ logit p: the same tilt as the logistic one at twice β."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from tiltlm.core.stable import bounded_exp
from tiltlm.links.link import Link


@dataclass(frozen=True)
class Exponential(Link):
    """ℓ(u) = e^(−u). Convex and decreasing; a wrongly ordered pair with margin −u weighs e^u, so outliers dominate.

    Below u = −30 it is replaced by its tangent.
    """

    convex: ClassVar[bool] = True

    def __call__(self, margin: Float[Tensor, " B"], /) -> Float[Tensor, " B"]:
        """Return ℓ of each margin."""
        return bounded_exp(-margin)
