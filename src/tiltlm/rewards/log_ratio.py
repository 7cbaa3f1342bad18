"""The reward of DPO: β log π/π_ref, summed over the response's tokens.

It is the reward whose KL-regularised optimum is the policy itself, up to a constant of the prompt.
"""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from tiltlm.core import ResponseLogps
from tiltlm.core.checks import positive


@dataclass(frozen=True)
class LogRatio:
    """r(x, y) = β (log π(y|x) − log π_ref(y|x)), with β in reward per nat of the whole response.

    Source: Rafailov et al. 2023, arXiv 2305.18290 (without the constant of the prompt).
    """

    beta: float
    needs_reference: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(beta=self.beta)

    def __call__(self, responses: ResponseLogps) -> Float[Tensor, " N"]:
        return self.beta * responses.log_ratios
