"""The reward of SimPO: the mean log-probability per token, without a reference.

Length-normalised, so that a longer answer is not a worse one by its length alone; the policy it induces still has a
length prior, exp(T·(r + c)/β).
"""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from tiltlm.core import ResponseLogps
from tiltlm.core.checks import positive


@dataclass(frozen=True)
class MeanLogp:
    """r(x, y) = β log π(y|x) / T(y), with β in reward per nat per token.

    Source: Meng et al. 2024, arXiv 2405.14734.
    """

    beta: float
    needs_reference: ClassVar[bool] = False

    def __post_init__(self) -> None:
        positive(beta=self.beta)

    def __call__(self, responses: ResponseLogps) -> Float[Tensor, " N"]:
        return self.beta * responses.mean_logps
