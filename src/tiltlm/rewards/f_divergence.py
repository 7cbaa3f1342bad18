"""The rewards of f-DPO: for each divergence D_f(π‖π_ref) the reward whose regularised optimum is the policy itself.

With u = π/π_ref of the whole response it is β f′(u), up to a constant; reverse KL gives DPO's β log u.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tiltlm.core import ConfigError, ResponseLogps
from tiltlm.core.checks import positive
from tiltlm.core.stable import bounded_exp, bounded_expm1

Divergence = Literal["reverse_kl", "forward_kl", "jensen_shannon", "alpha"]


@dataclass(frozen=True)
class FDivergence:
    """r(x, y) = β f′(u), u = π(y|x)/π_ref(y|x), ρ = log u:

    reverse_kl ρ; forward_kl −e^(−ρ); jensen_shannon log 2 + ρ − softplus(ρ); alpha (1 − e^(−αρ))/α, 0 < α < 1.

    Where an exponent passes 30 it goes on as its tangent: finite, increasing, gradient included.

    Source: Wang et al. 2023, arXiv 2309.16240. TRL's α is 1 − α here.
    """

    beta: float
    divergence: Divergence
    alpha: float | None = None
    """Of the alpha divergence only: 0 is reverse KL in the limit, 1 forward KL."""
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
                    f"alpha has no effect with divergence {self.divergence}; leave it out",
                    code="no_effect",
                    key="alpha",
                )
        elif self.alpha is None:
            raise ConfigError(
                "alpha is missing; divergence alpha needs one between 0 and 1, and there is no default",
                code="missing_setting",
                key="alpha",
            )
        elif not 0 < self.alpha < 1:
            raise ConfigError(
                f"alpha is {self.alpha}; it must lie between 0 (reverse KL) and 1 (forward KL)",
                code="out_of_range",
                key="alpha",
            )

    def __call__(self, responses: ResponseLogps) -> Float[Tensor, " N"]:
        return self.beta * self._slope(responses.log_ratios)

    def _slope(self, rho: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
        match self.divergence:
            case "reverse_kl":
                return rho
            case "forward_kl":
                return -bounded_exp(-rho)
            case "jensen_shannon":
                # log(2u/(1+u)) = log 2 − softplus(−ρ); written so that ρ → −∞ does not cancel.
                return F.logsigmoid(rho) + 0.6931471805599453
            case "alpha":
                assert self.alpha is not None
                return -bounded_expm1(-self.alpha * rho) / self.alpha
