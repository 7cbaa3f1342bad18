"""Weightings: factors of a comparison's link term, computed from the policy without gradient."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from tiltlm.core import Pairs, Responses, segment_sum
from tiltlm.core.logps import Extra
from tiltlm.objectives.parts.base import Part


class Weighting(Part, ABC):
    """One factor ≥ 0 per comparison, without gradient."""

    @abstractmethod
    def __call__(self, responses: Responses, pairs: Pairs, /) -> Float[Tensor, " B"]:
        """Return the factor of each comparison."""


@dataclass(frozen=True)
class OnPolicy(Weighting):
    """min(1, w(chosen)·w(rejected)), w(y) = exp( mean_t [ log π(y_t) − log Σ_v π(v)² ] ): likelihood under the policy.

    A token as likely as the policy's average draw has ratio 1, so responses that the policy is unlikely to generate
    count less. This is the aligned form of WPO.

    Source: Zhou et al. 2024, arXiv 2406.11827.
    """

    extras: ClassVar[frozenset[Extra]] = frozenset({"log_collisions"})

    def __call__(self, responses: Responses, pairs: Pairs, /) -> Float[Tensor, " B"]:
        """Return the factor of each comparison."""
        ratios = responses.token_logps.detach() - responses.extra("log_collisions").detach()
        means = segment_sum(ratios, responses.response_index, len(responses.num_tokens)) / responses.num_tokens
        return torch.exp((means[pairs.chosen] + means[pairs.rejected]).clamp(max=0))
