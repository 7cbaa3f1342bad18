"""Whole distributions as data: sorted margins against sorted margins. The loss of one example depends on all others.

AOT asks that the policy's margins dominate the reference's (first-order stochastic dominance): quantile by quantile.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tiltlm.core import Pairs, ResponseLogps, UnpairedResponses
from tiltlm.core.checks import positive
from tiltlm.core.logps import Extra
from tiltlm.core.needs import Need, Shape, Use
from tiltlm.links import Link
from tiltlm.objectives.terms import Divisor, Term
from tiltlm.rewards import LogRatio


@dataclass(frozen=True)
class DominantMargins:
    """ℓ = Σ_q link( β(a_(q) − b_(q)) ), a and b the sorted margins log π(y_w)/π(y_l) and log π_ref(y_w)/π_ref(y_l).

    Masses are the comparisons' weights, a soft label p being mass p one way round and 1 − p the other; the whole is
    divided by the examples of the step. Alone in its step, a comparison has the loss of DPO.
    """

    beta: float
    link: Link
    view: ClassVar[type[Pairs]] = Pairs
    shape: ClassVar[Shape] = "pairs"
    coupled: ClassVar[bool] = True
    statistic: ClassVar[None] = None
    needs_reference: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset()
    uses: ClassVar[frozenset[Use]] = frozenset({"weight", "offset", "preference"})
    extras: ClassVar[frozenset[Extra]] = frozenset()

    def __post_init__(self) -> None:
        positive(beta=self.beta)

    @property
    def reward(self) -> LogRatio:
        return LogRatio(self.beta)

    def __call__(self, responses: ResponseLogps, pairs: Pairs, /) -> tuple[Term, ...]:
        policy = self.beta * _margin(responses.seq_logps, pairs) - pairs.offset
        reference = self.beta * _margin(responses.ref_sums.detach(), pairs)
        mass, example = pairs.weight, pairs.example
        if not pairs.is_certain:
            policy, reference = torch.cat([policy, -policy]), torch.cat([reference, -reference])
            mass, example = torch.cat([mass * pairs.preference, mass * (1 - pairs.preference)]), example.repeat(2)
        i, j, width = coupling(policy, mass, reference, mass)
        values = width * self.link(policy.index_select(0, i) - reference.index_select(0, j))
        return (Term(values, example[i], Divisor.EXAMPLES),)


@dataclass(frozen=True)
class DominantRewards:
    """ℓ = ∫ link( r₊(q) − r₋(q) ) dq, r₊ and r₋ the quantiles of desirable and of undesirable rewards β log π/π_ref.

    Classes of different size are compared quantile by quantile; masses are the responses' weights. Where a step has
    only one class its loss is 0.
    """

    reward: LogRatio
    link: Link
    view: ClassVar[type[UnpairedResponses]] = UnpairedResponses
    shape: ClassVar[Shape] = "unpaired"
    coupled: ClassVar[bool] = True
    statistic: ClassVar[None] = None
    needs_reference: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset()
    uses: ClassVar[frozenset[Use]] = frozenset({"weight"})
    extras: ClassVar[frozenset[Extra]] = frozenset()

    def __call__(self, responses: ResponseLogps, unpaired: UnpairedResponses, /) -> tuple[Term, ...]:
        rewards = self.reward(responses)[unpaired.response]
        good, bad = unpaired.desirable, ~unpaired.desirable
        masses = [(unpaired.weight * side).sum() for side in (good, bad)]
        if not all(masses):
            return (Term(0.0 * rewards, unpaired.example, Divisor.RESPONSES),)
        i, j, width = coupling(
            rewards[good], unpaired.weight[good] / masses[0], rewards[bad], unpaired.weight[bad] / masses[1]
        )
        values = sum(masses) * width * self.link(rewards[good].index_select(0, i) - rewards[bad].index_select(0, j))
        return (Term(values, unpaired.example[good][i], Divisor.RESPONSES),)


def _margin(values: Float[Tensor, " N"], pairs: Pairs) -> Float[Tensor, " B"]:
    return values[pairs.chosen] - values[pairs.rejected]


def coupling(
    a: Float[Tensor, " n"], mass_a: Float[Tensor, " n"], b: Float[Tensor, " m"], mass_b: Float[Tensor, " m"]
) -> tuple[Int[Tensor, " q"], Int[Tensor, " q"], Float[Tensor, " q"]]:
    """Quantile by quantile, which a meets which b, and with what mass: the optimal transport on a line.

    Both masses add up to the same. No gradient flows through the order.
    """
    order_a, order_b = (torch.sort(values.detach(), stable=True).indices for values in (a, b))
    ends_a, ends_b = torch.cumsum(mass_a[order_a], 0), torch.cumsum(mass_b[order_b], 0)
    ends = torch.sort(torch.cat([ends_a, ends_b])).values
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    middle = (starts + ends) / 2
    i = torch.searchsorted(ends_a, middle).clamp(max=len(a) - 1)
    j = torch.searchsorted(ends_b, middle).clamp(max=len(b) - 1)
    return order_a[i], order_b[j], ends - starts
