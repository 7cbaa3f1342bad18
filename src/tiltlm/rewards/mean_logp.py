"""The reward of SimPO: the mean log-probability per token, without a reference.

It is length-normalised, so that a longer response does not get a lower reward because of its length. The optimal policy
still depends on length: exp(T·(r + c)/β).
"""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from tiltlm.core import Responses
from tiltlm.core.checks import positive
from tiltlm.rewards.reward import Reward


@dataclass(frozen=True)
class MeanLogp(Reward):
    """r(x, y) = β log π(y|x) / T(y), with β in reward per nat per token.

    Source: Meng et al. 2024, arXiv 2405.14734.
    """

    beta: float
    needs_reference: ClassVar[bool] = False

    def __post_init__(self) -> None:
        positive(beta=self.beta)

    def __call__(self, responses: Responses, /) -> Float[Tensor, " N"]:
        """Return the reward of each response."""
        return self.beta * responses.mean_logps
