"""Single labels as data: each response is desirable or undesirable on its own, measured against a baseline."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from tiltlm.core import Labelled, ResponseLogps
from tiltlm.links import Link
from tiltlm.objectives.terms import Divisor, Term
from tiltlm.rewards import LogRatio


@dataclass(frozen=True)
class Unpaired:
    """ℓ = λ_D·link(r − z) where desirable, λ_U·link(z − r) where not, z = β·z0.

    One loss per response, weighted, divided by the responses of the step. The baseline z0 is a statistic of the whole
    step, without gradient: see `baseline`.
    """

    reward: LogRatio
    link: Link
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    view: ClassVar[type[Labelled]] = Labelled
    coupled: ClassVar[bool] = False
    needs_reference: ClassVar[bool] = True
    needs_partners: ClassVar[bool] = True

    @staticmethod
    def baseline(log_ratio_sum: float, count: int) -> float:
        """z0 = max(0, mean log π/π_ref over mismatched pairs), in nats per response.

        The mean is pooled over the whole step and all ranks, and clamped once. It is a biased stand-in for
        KL(π‖π_ref): the mismatched responses are not samples of the policy.

        Args:
            log_ratio_sum: Σ log π(y′|x) − log π_ref(y′|x) over the step's mismatched pairs (x, y′).
            count: how many there are.
        """
        return max(0.0, log_ratio_sum / count)

    def __call__(self, responses: ResponseLogps, labelled: Labelled, /) -> tuple[Term, ...]:
        advantage = self.reward(responses)[labelled.response] - self.reward.beta * labelled.baseline
        signed = torch.where(labelled.desirable, advantage, -advantage)
        desirable, undesirable = advantage.new_tensor([self.desirable_weight, self.undesirable_weight])
        weight = torch.where(labelled.desirable, desirable, undesirable)
        return (Term(labelled.weight * weight * self.link(signed), labelled.example, Divisor.RESPONSES),)
