"""Single labels as data: each response is desirable or undesirable, and its reward is compared with a baseline."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from tiltlm.core import ConfigError, Responses, UnpairedResponses
from tiltlm.core.checks import not_negative
from tiltlm.core.needs import Shape
from tiltlm.links import Link
from tiltlm.objectives.parts.statistics import Statistic
from tiltlm.objectives.shapes.base import ObjectiveBase
from tiltlm.objectives.terms import Divisor, Term
from tiltlm.rewards import Reward


@dataclass(frozen=True)
class Unpaired(ObjectiveBase):
    """ℓ = λ_D·link(r − z) for desirable responses, λ_U·link(z − r) for undesirable ones.

    One loss per response, weighted, divided by the responses of the step. z is the statistic of the whole step, without
    gradient; 0 if there is none.
    """

    reward: Reward
    link: Link
    statistic: Statistic | None = None
    """z; None: 0."""
    desirable_weight: float = 1.0
    """λ_D."""
    undesirable_weight: float = 1.0
    """λ_U."""
    view: ClassVar[type[UnpairedResponses]] = UnpairedResponses
    shape: ClassVar[Shape] = "unpaired"

    def __post_init__(self) -> None:
        not_negative(desirable_weight=self.desirable_weight, undesirable_weight=self.undesirable_weight)
        if self.desirable_weight == self.undesirable_weight == 0:
            raise ConfigError(
                "desirable_weight and undesirable_weight are both 0, so the loss would be 0; make one of them positive",
                code="zero_loss",
                key="desirable_weight",
            )
        if self.statistic is not None and self.statistic.reward != self.reward:
            raise ConfigError(
                f"statistic is computed from {self.statistic.reward}, but the objective's reward is {self.reward}; "
                "they must be the same reward",
                code="other_reward",
                key="statistic",
            )

    def __call__(self, responses: Responses, unpaired: UnpairedResponses, /) -> tuple[Term, ...]:
        """Return the weighted loss of each response."""
        shift = self.statistic.shift(unpaired.baseline) if self.statistic is not None else 0.0
        advantage = self.reward(responses)[unpaired.response] - shift
        signed = torch.where(unpaired.desirable, advantage, -advantage)
        desirable, undesirable = advantage.new_tensor([self.desirable_weight, self.undesirable_weight])
        weight = torch.where(unpaired.desirable, desirable, undesirable)
        return (Term(unpaired.weight * weight * self.link(signed), unpaired.example, Divisor.RESPONSES),)
