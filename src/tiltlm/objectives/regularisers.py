"""Terms added to a comparison's loss, beside the link: what keeps the chosen response likely."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from tiltlm.core import Pairs, ResponseLogps


@runtime_checkable
class Regulariser(Protocol):
    """One number per comparison, added to its loss."""

    def __call__(self, responses: ResponseLogps, pairs: Pairs, /) -> Float[Tensor, " B"]: ...


@dataclass(frozen=True)
class ChosenNLL:
    """weight · −log π(chosen|x) / T(chosen): the per-token mean of that response, in nats per token."""

    weight: float = 1.0

    def __call__(self, responses: ResponseLogps, pairs: Pairs, /) -> Float[Tensor, " B"]:
        return -self.weight * responses.mean_logps[pairs.chosen]
