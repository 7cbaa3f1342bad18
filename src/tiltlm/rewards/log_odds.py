"""The reward of ORPO: the log-odds of the response's geometric-mean token probability, without a reference."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from tiltlm.core import Responses
from tiltlm.core.stable import log1mexp
from tiltlm.rewards.reward import Reward


@dataclass(frozen=True)
class LogOdds(Reward):
    """r(x, y) = log p/(1 − p) with p = exp(A(y)), A the mean log-probability per token. It has no unit and no knob.

    Source: Hong et al. 2024, arXiv 2403.07691; p is the geometric mean over tokens, as in the authors' code.
    """

    needs_reference: ClassVar[bool] = False

    def __call__(self, responses: Responses, /) -> Float[Tensor, " N"]:
        """Return the reward of each response."""
        mean = responses.mean_logps
        return mean - log1mexp(mean)
