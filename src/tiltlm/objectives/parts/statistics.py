"""Statistics of a whole step without gradient, against which single responses are valued.

They are pooled over all packs and ranks before the loss is computed, so no cut of a step changes them. What a statistic
remembers from step to step is a few numbers that checkpoints keep.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tiltlm.core import ResponseLogps, UnpairedResponses
from tiltlm.rewards import LogRatio, Reward

Memory = tuple[float, ...]
"""What a statistic remembers; empty at the beginning of a run."""


class Statistic:
    """A number per step. Subclasses are frozen dataclasses and final."""

    of: ClassVar[Literal["responses", "partners"]]
    """The step's own responses, or those of other prompts that stand beside them."""
    metric: ClassVar[str]
    """Its name in the logs."""
    reward: Reward
    """From which it is subtracted."""

    @abstractmethod
    def sums(self, responses: ResponseLogps, unpaired: UnpairedResponses) -> Float[Tensor, " S"]:
        """Sums over one pack, float64; packs and ranks are added up."""

    @abstractmethod
    def settle(self, sums: Sequence[float], memory: Memory) -> tuple[float, Memory]:
        """The statistic of a step from its pooled sums and what was remembered; and what is to be remembered."""

    @abstractmethod
    def shift(self, value: float) -> float:
        """What is subtracted from rewards, in their unit."""


@dataclass(frozen=True)
class MismatchedKL(Statistic):
    """KTO's z0 = max(0, mean log π/π_ref over mismatched pairs (x, y′)), in nats per response.

    The mean is over the whole step, clamped once. It is a biased stand-in for KL(π‖π_ref): the mismatched responses are
    not samples of the policy.
    """

    reward: LogRatio
    of: ClassVar[Literal["responses", "partners"]] = "partners"
    metric: ClassVar[str] = "kl"

    def sums(self, responses: ResponseLogps, unpaired: UnpairedResponses) -> Float[Tensor, " S"]:
        ratios = responses.log_ratios[unpaired.response]
        return torch.stack([ratios.sum(), torch.ones_like(ratios).sum()])

    def settle(self, sums: Sequence[float], memory: Memory) -> tuple[float, Memory]:
        total, count = sums
        return max(0.0, total / count), memory

    def shift(self, value: float) -> float:
        return self.reward.beta * value


@dataclass(frozen=True)
class BalancedMean(Statistic):
    """BCO's δ = ½ (mean reward of desirable + mean reward of undesirable responses), in units of the reward.

    Both means run over all steps so far, this one included; while only one class has been seen, δ is that one's mean.

    Source: Jung et al. 2024, arXiv 2404.04656. The authors' code takes one mean over both classes, which
    is the same where they are equally many.
    """

    reward: Reward
    of: ClassVar[Literal["responses", "partners"]] = "responses"
    metric: ClassVar[str] = "delta"

    def sums(self, responses: ResponseLogps, unpaired: UnpairedResponses) -> Float[Tensor, " S"]:
        rewards = self.reward(responses)[unpaired.response]
        good = unpaired.desirable.to(rewards.dtype)
        return torch.stack([(rewards * good).sum(), good.sum(), (rewards * (1 - good)).sum(), (1 - good).sum()])

    def settle(self, sums: Sequence[float], memory: Memory) -> tuple[float, Memory]:
        so_far = tuple(a + b for a, b in zip(sums, memory or (0.0,) * 4, strict=True))
        means = [total / count for total, count in (so_far[:2], so_far[2:]) if count]
        return sum(means) / len(means), so_far

    def shift(self, value: float) -> float:
        return value
