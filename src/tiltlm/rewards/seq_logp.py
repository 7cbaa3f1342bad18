"""The log-likelihood as a reward: SFT raises it, and it is logged as the reward of a demonstration."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from tiltlm.core import Responses
from tiltlm.core.checks import positive
from tiltlm.rewards.reward import Reward


@dataclass(frozen=True)
class SeqLogp(Reward):
    """r(x, y) = β log π(y|x), with β in reward per nat of the whole response."""

    beta: float = 1.0
    needs_reference: ClassVar[bool] = False

    def __post_init__(self) -> None:
        positive(beta=self.beta)

    def __call__(self, responses: Responses, /) -> Float[Tensor, " N"]:
        """Return the reward of each response."""
        return self.beta * responses.seq_logps
