"""Comparisons as data: chosen ≻ rejected. DPO, IPO, SimPO and their kin differ only in reward and link."""

from dataclasses import dataclass
from typing import ClassVar

from tiltlm.core import Pairs, ResponseLogps
from tiltlm.links import Link
from tiltlm.objectives.regularisers import Regulariser
from tiltlm.objectives.terms import Divisor, Term
from tiltlm.rewards import Reward


@dataclass(frozen=True)
class Pairwise:
    """ℓ = strength · [p·link(u) + (1 − p)·link(−u)] + Σ regularisers, u = r(chosen) − r(rejected) − offset.

    One loss per comparison, weighted, divided by the examples of the step.
    """

    reward: Reward
    link: Link
    regularisers: tuple[Regulariser, ...] = ()
    strength: float = 1.0
    """Weight of the preference term beside the regularisers."""
    view: ClassVar[type[Pairs]] = Pairs
    coupled: ClassVar[bool] = False
    needs_partners: ClassVar[bool] = False

    @property
    def needs_reference(self) -> bool:
        return self.reward.needs_reference

    def __call__(self, responses: ResponseLogps, pairs: Pairs, /) -> tuple[Term, ...]:
        rewards = self.reward(responses)
        margin = rewards[pairs.chosen] - rewards[pairs.rejected] - pairs.offset
        p = pairs.preference
        loss = self.strength * (p * self.link(margin) + (1 - p) * self.link(-margin))
        for regulariser in self.regularisers:
            loss = loss + regulariser(responses, pairs)
        return (Term(pairs.weight * loss, pairs.example, Divisor.EXAMPLES),)
