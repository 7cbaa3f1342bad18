"""Demonstrations as data: responses to imitate, no comparison. Supervised fine-tuning."""

from dataclasses import dataclass
from typing import ClassVar

from tiltlm.core import Demonstrations, ResponseLogps
from tiltlm.core.logps import Extra
from tiltlm.core.needs import Need, Shape, Use
from tiltlm.objectives.terms import Divisor, Term
from tiltlm.rewards import SeqLogp


@dataclass(frozen=True)
class Demonstration:
    """ℓ = −log π(y|x), divided by the response tokens of the step: every token counts the same, wherever it stands."""

    reward: SeqLogp
    view: ClassVar[type[Demonstrations]] = Demonstrations
    shape: ClassVar[Shape] = "demonstrations"
    coupled: ClassVar[bool] = False
    statistic: ClassVar[None] = None
    needs_reference: ClassVar[bool] = False
    needs: ClassVar[frozenset[Need]] = frozenset()
    uses: ClassVar[frozenset[Use]] = frozenset({"weight"})
    extras: ClassVar[frozenset[Extra]] = frozenset()

    def __call__(self, responses: ResponseLogps, demonstrations: Demonstrations, /) -> tuple[Term, ...]:
        nll = -self.reward(responses)[demonstrations.response]
        return (Term(demonstrations.weight * nll, demonstrations.example, Divisor.TOKENS),)
