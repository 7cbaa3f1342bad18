"""The reward of AlphaPO: a power of the mean token probability; SimPO's logarithm is its limit for α → 0."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from tiltlm.core import ConfigError, Responses
from tiltlm.core.checks import finite, positive
from tiltlm.core.stable import bounded_expm1
from tiltlm.rewards.reward import Reward


@dataclass(frozen=True)
class Power(Reward):
    """r(x, y) = β (1 − p^(−α)) / α with p = exp(A(y)), A the mean log-probability per token; α ≠ 0.

    α > 0 gives unlikely responses a lower reward than the logarithm does, α < 0 a higher one: there r lies in
    [−β/|α|, 0]. Computed as −β·expm1(−αA)/α, with its tangent if −αA > 30.

    Source: Gupta et al. 2025, arXiv 2501.03884.
    """

    beta: float
    alpha: float
    needs_reference: ClassVar[bool] = False

    def __post_init__(self) -> None:
        positive(beta=self.beta)
        finite(alpha=self.alpha)
        if not self.alpha:
            raise ConfigError(
                f"alpha is {self.alpha}; it must not be 0; at 0 the power becomes the logarithm, which is mean_logp "
                "(simpo)",
                code="out_of_range",
                key="alpha",
            )

    def __call__(self, responses: Responses, /) -> Float[Tensor, " N"]:
        """Return the reward of each response."""
        return -self.beta / self.alpha * bounded_expm1(-self.alpha * responses.mean_logps)
