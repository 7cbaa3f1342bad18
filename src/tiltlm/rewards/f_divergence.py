"""The rewards of f-DPO: for a divergence D_f(π‖π_ref), the reward whose regularised optimum is the policy itself.

With u = π/π_ref of the whole response it is β f′(u), up to a constant; reverse KL gives DPO's β log u.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tiltlm.core import ConfigError, Responses
from tiltlm.core.checks import positive
from tiltlm.core.stable import bounded_exp, bounded_expm1
from tiltlm.rewards.reward import Reward

Divergence = Literal["reverse_kl", "forward_kl", "jensen_shannon", "alpha"]


@dataclass(frozen=True)
class FDivergence(Reward):
    """r(x, y) = β f′(u), u = π(y|x)/π_ref(y|x).

    With ρ = log u, f′ is: reverse_kl ρ; forward_kl −e^(−ρ); jensen_shannon log 2 + ρ − softplus(ρ);
    alpha (1 − e^(−αρ))/α, 0 < α < 1.

    Exponentials with an exponent above 30 are replaced by their tangent, so value and gradient stay finite.

    Source: Wang et al. 2023, arXiv 2309.16240. TRL's α is 1 − α here.
    """

    beta: float
    divergence: Divergence
    alpha: float | None = None
    """For the alpha divergence only. The limits are reverse KL (0) and forward KL (1)."""
    needs_reference: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(beta=self.beta)
        if self.divergence not in get_args(Divergence):
            raise ConfigError(
                f"divergence is {self.divergence!r}; known: {', '.join(get_args(Divergence))}",
                code="unknown_name",
                key="divergence",
            )
        if self.divergence != "alpha":
            if self.alpha is not None:
                raise ConfigError(
                    f"alpha has no effect with divergence {self.divergence}; remove it",
                    code="no_effect",
                    key="alpha",
                )
        elif self.alpha is None:
            raise ConfigError(
                "alpha is missing; divergence alpha needs a value between 0 and 1, and there is no default",
                code="missing_setting",
                key="alpha",
            )
        elif not 0 < self.alpha < 1:
            raise ConfigError(
                f"alpha is {self.alpha}; it must lie between 0 (reverse KL) and 1 (forward KL)",
                code="out_of_range",
                key="alpha",
            )

    def __call__(self, responses: Responses, /) -> Float[Tensor, " N"]:
        """Return the reward of each response."""
        return self.beta * self._slope(responses.log_ratios)

    def _slope(self, rho: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
        match self.divergence:
            case "reverse_kl":
                return rho
            case "forward_kl":
                return -bounded_exp(-rho)
            case "jensen_shannon":
                # log(2u/(1+u)) = log 2 − softplus(−ρ), written without cancellation for ρ → −∞.
                return F.logsigmoid(rho) + 0.6931471805599453
            case "alpha":
                assert self.alpha is not None
                return -bounded_expm1(-self.alpha * rho) / self.alpha
