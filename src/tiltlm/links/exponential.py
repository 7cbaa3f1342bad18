"""The exponential link, as in boosting. Its minimiser is ½ logit p: the same tilt as the logistic one at twice β."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from tiltlm.core.stable import bounded_exp


@dataclass(frozen=True)
class Exponential:
    """ℓ(u) = e^(−u). Convex and decreasing; a pair that is wrong by u nats weighs e^u, so outliers rule.

    Beyond u = −30 it goes on as its tangent.
    """

    convex: ClassVar[bool] = True

    def __call__(self, margin: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return bounded_exp(-margin)
