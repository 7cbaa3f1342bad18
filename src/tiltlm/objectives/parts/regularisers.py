"""Regularisers: terms added to a comparison's loss beside the link; they read its responses separately."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor

from tiltlm.core import ConfigError, Pairs, Responses
from tiltlm.core.checks import not_negative
from tiltlm.links import Link
from tiltlm.objectives.parts.base import Part
from tiltlm.rewards import Reward

Side = Literal["chosen", "rejected"]


class Regulariser(Part, ABC):
    """One number per comparison, added to its loss."""

    @abstractmethod
    def __call__(self, responses: Responses, pairs: Pairs, /) -> Float[Tensor, " B"]:
        """Return the term of each comparison."""


@dataclass(frozen=True)
class ChosenNLL(Regulariser):
    """weight · −log π(chosen|x) / T(chosen): the mean over the response's tokens, in nats per token."""

    weight: float = 1.0
    per_token: bool = True
    """False: the sum over the tokens, in nats per response."""

    def __post_init__(self) -> None:
        not_negative(weight=self.weight)

    def __call__(self, responses: Responses, pairs: Pairs, /) -> Float[Tensor, " B"]:
        """Return the term of each comparison."""
        logps = responses.mean_logps if self.per_token else responses.seq_logps
        return -self.weight * logps[pairs.chosen]


@dataclass(frozen=True)
class Centering(Regulariser):
    """weight · (r(chosen) + r(rejected))²: keeps the rewards of a prompt around 0; comparisons do not fix their level.

    Source: Eisenstein et al. 2023, arXiv 2312.09244.
    """

    reward: Reward
    weight: float

    def __post_init__(self) -> None:
        not_negative(weight=self.weight)

    @property
    def needs_reference(self) -> bool:
        """True if the reward reads one."""
        return self.reward.needs_reference

    def __call__(self, responses: Responses, pairs: Pairs, /) -> Float[Tensor, " B"]:
        """Return the term of each comparison."""
        rewards = self.reward(responses)
        return self.weight * (rewards[pairs.chosen] + rewards[pairs.rejected]) ** 2


@dataclass(frozen=True)
class Anchor(Regulariser):
    """weight · ℓ(±r(y)) of one side of a comparison: acts on the reward itself, not on the margin.

    Losses of a margin do not change if a constant per prompt is added to all rewards; this term does.
    """

    side: Side
    """The response whose reward is read."""
    reward: Reward
    link: Link
    sign: Literal[1, -1]
    """1: the link raises the reward. −1: it lowers it."""
    weight: float = 1.0

    def __post_init__(self) -> None:
        not_negative(weight=self.weight)
        if self.side not in get_args(Side):
            raise ConfigError(f"side is {self.side!r}; it must be chosen or rejected", code="unknown_name", key="side")
        if self.sign not in (1, -1):
            raise ConfigError(
                f"sign is {self.sign!r}; it must be 1 (raise the reward) or -1 (lower it)",
                code="out_of_range",
                key="sign",
            )

    @property
    def needs_reference(self) -> bool:
        """True if the reward reads one."""
        return self.reward.needs_reference

    def __call__(self, responses: Responses, pairs: Pairs, /) -> Float[Tensor, " B"]:
        """Return the term of each comparison."""
        side = pairs.chosen if self.side == "chosen" else pairs.rejected
        return self.weight * self.link(self.sign * self.reward(responses)[side])
