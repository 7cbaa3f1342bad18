"""The reward of AlphaPO: a power of the mean token probability, of which SimPO's logarithm is the limit α → 0."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from tiltlm.core import ConfigError, ResponseLogps
from tiltlm.core.checks import finite, positive
from tiltlm.core.stable import bounded_expm1


@dataclass(frozen=True)
class Power:
    """r(x, y) = β (1 − p^(−α)) / α with p = exp(A(y)), A the mean log-probability per token; α ≠ 0.

    α > 0 punishes unlikely responses more than the logarithm does, α < 0 less: there r lies in [−β/|α|, 0].
    Computed as −β·expm1(−αA)/α; where −αA > 30 it goes on as its tangent.

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
                f"alpha is {self.alpha}; it must be another number: at 0 the power becomes the logarithm of "
                "mean_logp (simpo)",
                code="out_of_range",
                key="alpha",
            )

    def __call__(self, responses: ResponseLogps) -> Float[Tensor, " N"]:
        return -self.beta / self.alpha * bounded_expm1(-self.alpha * responses.mean_logps)
