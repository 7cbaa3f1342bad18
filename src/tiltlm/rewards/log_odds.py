"""The reward of ORPO: the log-odds of the response's geometric-mean token probability, without a reference."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from tiltlm.core import ResponseLogps


def log1mexp(a: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """log(1 − eᵃ) for a < 0, accurate on both sides of −ln 2; a is held at ≤ −1e-6, where the odds would explode.

    The branch that is not taken is fed a harmless value, so that its gradient is finite before it is masked.
    """
    a = a.clamp(max=-1e-6)
    near = a > -math.log(2)
    small = torch.where(near, a, a.new_tensor(-0.5))
    large = torch.where(near, a.new_tensor(-1.0), a)
    return torch.where(near, torch.log(-torch.expm1(small)), torch.log1p(-torch.exp(large)))


@dataclass(frozen=True)
class LogOdds:
    """r(x, y) = log p/(1 − p) with p = exp(A(y)), A the mean log-probability per token. No unit, no knob.

    Source: Hong et al. 2024, arXiv 2403.07691, eq. 4; p is the geometric mean over tokens, as in the authors' code.
    """

    needs_reference: ClassVar[bool] = False

    def __call__(self, responses: ResponseLogps) -> Float[Tensor, " N"]:
        mean = responses.mean_logps
        return mean - log1mexp(mean)
