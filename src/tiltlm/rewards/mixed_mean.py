"""The reward of RainbowPO: the mean log-probability minus a share of the reference's."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from tiltlm.core import Responses
from tiltlm.core.checks import between, positive
from tiltlm.rewards.reward import Reward


@dataclass(frozen=True)
class MixedMean(Reward):
    """r(x, y) = β (A(y) − α A_ref(y)), A the mean log-probability per token; β in reward per nat per token.

    α = 1 is the length-normalised log-ratio, α = 0 the reward of SimPO.

    Source: Zhao et al. 2024, arXiv 2410.04203.
    """

    beta: float
    alpha: float
    needs_reference: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(beta=self.beta)
        between(0.0, 1.0, alpha=self.alpha)

    def __call__(self, responses: Responses, /) -> Float[Tensor, " N"]:
        """Return the reward of each response."""
        reference = responses.ref_sums.detach() / responses.num_tokens
        return self.beta * (responses.mean_logps - self.alpha * reference)
