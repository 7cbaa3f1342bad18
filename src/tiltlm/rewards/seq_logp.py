"""The plain log-likelihood as a reward: what SFT raises, and what is logged as the reward of a demonstration."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from tiltlm.core import ResponseLogps
from tiltlm.core.checks import positive


@dataclass(frozen=True)
class SeqLogp:
    """r(x, y) = β log π(y|x), with β in reward per nat of the whole response."""

    beta: float = 1.0
    needs_reference: ClassVar[bool] = False

    def __post_init__(self) -> None:
        positive(beta=self.beta)

    def __call__(self, responses: ResponseLogps) -> Float[Tensor, " N"]:
        return self.beta * responses.seq_logps
