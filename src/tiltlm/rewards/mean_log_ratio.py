"""The length-normalised log-ratio: DPO's reward per token, used by TRL's `ipo` and Tülu's `dpo_norm`."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from tiltlm.core import Responses
from tiltlm.core.checks import positive
from tiltlm.rewards.reward import Reward


@dataclass(frozen=True)
class MeanLogRatio(Reward):
    """r(x, y) = β (log π(y|x) − log π_ref(y|x)) / T(y), with β in reward per nat per token.

    Source: Lambert et al. 2024, arXiv 2411.15124 (length-normalised DPO).
    """

    beta: float
    needs_reference: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(beta=self.beta)

    def __call__(self, responses: Responses, /) -> Float[Tensor, " N"]:
        """Return the reward of each response."""
        return self.beta * responses.log_ratios / responses.num_tokens
