"""Single labels as data: each response is desirable or undesirable on its own, measured against a baseline."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from tiltlm.core import ConfigError, ResponseLogps, UnpairedResponses
from tiltlm.core.checks import not_negative
from tiltlm.core.logps import Extra
from tiltlm.core.needs import Need, Shape, Use
from tiltlm.links import Link
from tiltlm.objectives.parts.statistics import Statistic
from tiltlm.objectives.terms import Divisor, Term
from tiltlm.rewards import Reward


@dataclass(frozen=True)
class Unpaired:
    """ℓ = λ_D·link(r − z) where desirable, λ_U·link(z − r) where not.

    One loss per response, weighted, divided by the responses of the step. z is a statistic of the whole step, without
    gradient; 0 where there is none.
    """

    reward: Reward
    link: Link
    statistic: Statistic | None = None
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    view: ClassVar[type[UnpairedResponses]] = UnpairedResponses
    shape: ClassVar[Shape] = "unpaired"
    coupled: ClassVar[bool] = False
    needs: ClassVar[frozenset[Need]] = frozenset()
    uses: ClassVar[frozenset[Use]] = frozenset({"weight"})
    extras: ClassVar[frozenset[Extra]] = frozenset()

    def __post_init__(self) -> None:
        not_negative(desirable_weight=self.desirable_weight, undesirable_weight=self.undesirable_weight)
        if self.desirable_weight == self.undesirable_weight == 0:
            raise ConfigError(
                "desirable_weight and undesirable_weight are both 0; nothing would be learned",
                code="zero_loss",
                key="desirable_weight",
            )
        if self.statistic is not None and self.statistic.reward != self.reward:
            raise ConfigError(
                f"statistic is of {self.statistic.reward} and the reward is {self.reward}; what is subtracted from a "
                "reward must be made of the same one",
                code="other_reward",
                key="statistic",
            )

    @property
    def needs_reference(self) -> bool:
        return self.reward.needs_reference

    def __call__(self, responses: ResponseLogps, unpaired: UnpairedResponses, /) -> tuple[Term, ...]:
        shift = self.statistic.shift(unpaired.baseline) if self.statistic is not None else 0.0
        advantage = self.reward(responses)[unpaired.response] - shift
        signed = torch.where(unpaired.desirable, advantage, -advantage)
        desirable, undesirable = advantage.new_tensor([self.desirable_weight, self.undesirable_weight])
        weight = torch.where(unpaired.desirable, desirable, undesirable)
        return (Term(unpaired.weight * weight * self.link(signed), unpaired.example, Divisor.RESPONSES),)
