"""Terms added to a comparison's loss, beside the link: what looks at one response of it alone."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor

from tiltlm.core import ConfigError, Pairs, ResponseLogps
from tiltlm.core.checks import not_negative
from tiltlm.links import Link
from tiltlm.objectives.parts.base import Part
from tiltlm.rewards import Reward

Side = Literal["chosen", "rejected"]


class Regulariser(Part):
    """One number per comparison, added to its loss."""

    @abstractmethod
    def __call__(self, responses: ResponseLogps, pairs: Pairs, /) -> Float[Tensor, " B"]: ...


@dataclass(frozen=True)
class ChosenNLL(Regulariser):
    """weight · −log π(chosen|x) / T(chosen): the per-token mean of that response, in nats per token."""

    weight: float = 1.0
    per_token: bool = True
    """False: the sum over the response, in nats per response."""

    def __post_init__(self) -> None:
        not_negative(weight=self.weight)

    def __call__(self, responses: ResponseLogps, pairs: Pairs, /) -> Float[Tensor, " B"]:
        logps = responses.mean_logps if self.per_token else responses.seq_logps
        return -self.weight * logps[pairs.chosen]


@dataclass(frozen=True)
class Centering(Regulariser):
    """weight · (r(chosen) + r(rejected))²: rewards of a prompt lie around 0, where comparisons alone let them drift.

    Source: Eisenstein et al. 2023, arXiv 2312.09244.
    """

    reward: Reward
    weight: float

    def __post_init__(self) -> None:
        not_negative(weight=self.weight)

    @property
    def needs_reference(self) -> bool:  # type: ignore[override]
        return self.reward.needs_reference

    def __call__(self, responses: ResponseLogps, pairs: Pairs, /) -> Float[Tensor, " B"]:
        rewards = self.reward(responses)
        return self.weight * (rewards[pairs.chosen] + rewards[pairs.rejected]) ** 2


@dataclass(frozen=True)
class Anchor(Regulariser):
    """weight · ℓ(±r(y)) of one side of a comparison: what its reward is, not only by how much it leads.

    It breaks the invariance to constants of the prompt that losses of a margin have.
    """

    side: Side
    reward: Reward
    link: Link
    sign: Literal[1, -1]
    """1: the link pulls the reward up. −1: down."""
    weight: float = 1.0

    def __post_init__(self) -> None:
        not_negative(weight=self.weight)
        if self.side not in get_args(Side):
            raise ConfigError(f"side is {self.side!r}; it is chosen or rejected", code="unknown_name", key="side")
        if self.sign not in (1, -1):
            raise ConfigError(
                f"sign is {self.sign!r}; it is 1 (the reward is pulled up) or -1 (down)",
                code="out_of_range",
                key="sign",
            )

    @property
    def needs_reference(self) -> bool:  # type: ignore[override]
        return self.reward.needs_reference

    def __call__(self, responses: ResponseLogps, pairs: Pairs, /) -> Float[Tensor, " B"]:
        side = pairs.chosen if self.side == "chosen" else pairs.rejected
        return self.weight * self.link(self.sign * self.reward(responses)[side])
