"""The reward of ORPO: the log-odds of the response's geometric-mean token probability, without a reference."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from tiltlm.core import ResponseLogps
from tiltlm.core.stable import log1mexp


@dataclass(frozen=True)
class LogOdds:
    """r(x, y) = log p/(1 − p) with p = exp(A(y)), A the mean log-probability per token. No unit, no knob.

    Source: Hong et al. 2024, arXiv 2403.07691; p is the geometric mean over tokens, as in the authors' code.
    """

    needs_reference: ClassVar[bool] = False

    def __call__(self, responses: ResponseLogps) -> Float[Tensor, " N"]:
        mean = responses.mean_logps
        return mean - log1mexp(mean)
