"""Demonstrations as data: responses to imitate, without comparisons. Supervised fine-tuning."""

from dataclasses import dataclass
from typing import ClassVar

from tiltlm.core import Demonstrations, Responses
from tiltlm.core.needs import Shape
from tiltlm.objectives.shapes.base import ObjectiveBase
from tiltlm.objectives.terms import Divisor, Term
from tiltlm.rewards import SeqLogp


@dataclass(frozen=True)
class Demonstration(ObjectiveBase):
    """ℓ = −log π(y|x), divided by the response tokens of the step, so that every token has the same weight."""

    reward: SeqLogp
    view: ClassVar[type[Demonstrations]] = Demonstrations
    shape: ClassVar[Shape] = "demonstrations"

    def __call__(self, responses: Responses, demonstrations: Demonstrations, /) -> tuple[Term, ...]:
        """Return −r(y) of each response, weighted."""
        nll = -self.reward(responses)[demonstrations.response]
        return (Term(demonstrations.weight * nll, demonstrations.example, Divisor.TOKENS),)
