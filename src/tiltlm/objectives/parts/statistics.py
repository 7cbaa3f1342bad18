"""Statistics of a whole step, without gradient, which are subtracted from rewards.

They are summed over all packs and ranks before the loss is computed, so they do not depend on how a step is split. A
response counts with the weight of its row: weight 0 is as if the row were absent, weight 2 as if it were there twice. A
statistic may remember a few numbers from step to step; checkpoints contain them.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tiltlm.core import Responses, UnpairedResponses
from tiltlm.rewards import LogRatio, Reward

Memory = tuple[float, ...]
"""The numbers that a statistic remembers; empty at the beginning of a run."""


class Statistic(ABC):
    """A number per step. Subclasses are frozen dataclasses and final."""

    reads: ClassVar[Literal["responses", "partners"]]
    """The responses that it reads: the step's own, or their partners, which are responses to other prompts."""
    metric: ClassVar[str]
    """Its name in the metrics."""
    reward: Reward
    """The reward that it is subtracted from."""

    @abstractmethod
    def sums(self, responses: Responses, unpaired: UnpairedResponses) -> Float[Tensor, " S"]:
        """Return sums over one pack, float64; the caller adds those of all packs and ranks."""

    @abstractmethod
    def settle(self, sums: Sequence[float], memory: Memory) -> tuple[float, Memory]:
        """Return the statistic of a step, and the new memory, from the step's sums and the old memory."""

    @abstractmethod
    def shift(self, value: float) -> float:
        """Return the number to subtract from rewards, in their unit, for this value of the statistic."""


@dataclass(frozen=True)
class MismatchedKL(Statistic):
    """KTO's z0 = max(0, weighted mean log π/π_ref over mismatched pairs (x, y′)), in nats per response.

    A pair has the weight of the row of x. The mean over the whole step is clamped once. It is a biased estimate of
    KL(π‖π_ref), because the mismatched responses are not samples of the policy.
    """

    reward: LogRatio
    reads: ClassVar[Literal["responses", "partners"]] = "partners"
    metric: ClassVar[str] = "kl"

    def sums(self, responses: Responses, unpaired: UnpairedResponses) -> Float[Tensor, " S"]:
        """Return the weighted sum of log-ratios, and the sum of the weights."""
        ratios = responses.log_ratios[unpaired.response]
        weight = unpaired.weight.to(ratios.dtype)
        return torch.stack([(weight * ratios).sum(), weight.sum()])

    def settle(self, sums: Sequence[float], memory: Memory) -> tuple[float, Memory]:
        """Return z0, 0 for a step without weight; nothing is remembered."""
        total, weight = sums
        return max(0.0, total / weight) if weight else 0.0, memory

    def shift(self, value: float) -> float:
        """Return β·z0."""
        return self.reward.beta * value


@dataclass(frozen=True)
class BalancedMean(Statistic):
    """BCO's δ = ½ (mean reward of desirable + mean reward of undesirable responses), in units of the reward.

    Both means are weighted, and over all steps so far, including this one. While only one class has been seen, δ is its
    mean.

    Source: Jung et al. 2024, arXiv 2404.04656. The authors' code takes one mean over both classes, which is the same if
    both have equally many responses.
    """

    reward: Reward
    reads: ClassVar[Literal["responses", "partners"]] = "responses"
    metric: ClassVar[str] = "delta"

    def sums(self, responses: Responses, unpaired: UnpairedResponses) -> Float[Tensor, " S"]:
        """Return the weighted sum of the rewards of each class, and the sum of its weights."""
        rewards = self.reward(responses)[unpaired.response]
        weight = unpaired.weight.to(rewards.dtype)
        good, bad = weight * unpaired.desirable, weight * ~unpaired.desirable
        return torch.stack([(rewards * good).sum(), good.sum(), (rewards * bad).sum(), bad.sum()])

    def settle(self, sums: Sequence[float], memory: Memory) -> tuple[float, Memory]:
        """Return δ; the sums of all steps are remembered."""
        so_far = tuple(a + b for a, b in zip(sums, memory or (0.0,) * 4, strict=True))
        means = [total / weight for total, weight in (so_far[:2], so_far[2:]) if weight]
        return sum(means) / max(1, len(means)), so_far

    def shift(self, value: float) -> float:
        """Return δ."""
        return value
