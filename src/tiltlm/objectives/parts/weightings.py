"""What a comparison's preference term is multiplied by, read off the policy without gradient."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from tiltlm.core import Pairs, ResponseLogps, segment_sum
from tiltlm.core.logps import Extra
from tiltlm.objectives.parts.base import Part


class Weighting(Part):
    """One factor ≥ 0 per comparison, without gradient."""

    @abstractmethod
    def __call__(self, responses: ResponseLogps, pairs: Pairs, /) -> Float[Tensor, " B"]: ...


@dataclass(frozen=True)
class OnPolicy(Weighting):
    """min(1, w(chosen)·w(rejected)), w(y) = exp( mean_t [ log π(y_t) − log Σ_v π(v)² ] ): how much π's own they are.

    A token as likely as the policy's own average draw has ratio 1, so responses unlike what the policy would say count
    less. The aligned form of WPO.

    Source: Zhou et al. 2024, arXiv 2406.11827.
    """

    extras: ClassVar[frozenset[Extra]] = frozenset({"log_collisions"})

    def __call__(self, responses: ResponseLogps, pairs: Pairs, /) -> Float[Tensor, " B"]:
        ratios = responses.token_logps.detach() - responses.extra("log_collisions").detach()
        means = segment_sum(ratios, responses.response_index, len(responses.num_tokens)) / responses.num_tokens
        return torch.exp((means[pairs.chosen] + means[pairs.rejected]).clamp(max=0))
