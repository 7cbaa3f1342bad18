"""The reward of DPO: β log π/π_ref, summed over the response's tokens.

The KL-regularised optimum of this reward is the policy itself, up to a constant of the prompt.
"""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from tiltlm.core import Responses
from tiltlm.core.checks import positive
from tiltlm.rewards.reward import Reward


@dataclass(frozen=True)
class LogRatio(Reward):
    """r(x, y) = β (log π(y|x) − log π_ref(y|x)), with β in reward per nat of the whole response.

    Source: Rafailov et al. 2023, arXiv 2305.18290 (without the constant of the prompt).
    """

    beta: float
    needs_reference: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(beta=self.beta)

    def __call__(self, responses: Responses, /) -> Float[Tensor, " N"]:
        """Return the reward of each response."""
        return self.beta * responses.log_ratios
