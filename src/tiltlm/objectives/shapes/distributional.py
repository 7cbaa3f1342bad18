"""Whole distributions as data: sorted values against sorted values. An example's loss depends on all others.

AOT asks that the policy's margins dominate the reference's (first-order stochastic dominance): quantile by quantile.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tiltlm.core import Pairs, Responses, UnpairedResponses
from tiltlm.core.needs import Shape, Use
from tiltlm.links import Link
from tiltlm.objectives.shapes.base import ObjectiveBase
from tiltlm.objectives.terms import Divisor, Term
from tiltlm.rewards import LogRatio


@dataclass(frozen=True)
class DominantMargins(ObjectiveBase):
    """ℓ = Σ_q link( β(a_(q) − b_(q)) ), a and b the sorted margins log π(y_w)/π(y_l) and log π_ref(y_w)/π_ref(y_l).

    A comparison's mass is its weight. A soft label p splits it: mass p as labelled, mass 1 − p with both responses
    exchanged. The sum is divided by the examples of the step. A comparison that is the only one of its step has the
    loss of DPO.
    """

    reward: LogRatio
    link: Link
    view: ClassVar[type[Pairs]] = Pairs
    shape: ClassVar[Shape] = "pairs"
    coupled: ClassVar[bool] = True
    uses: ClassVar[frozenset[Use]] = frozenset({"weight", "offset", "preference"})

    def __call__(self, responses: Responses, pairs: Pairs, /) -> tuple[Term, ...]:
        """Return the loss of each pair of quantiles, with its mass."""
        policy = self.reward.beta * _margin(responses.seq_logps, pairs) - pairs.offset
        reference = self.reward.beta * _margin(responses.ref_sums.detach(), pairs)
        mass, example = pairs.weight, pairs.example
        if not pairs.is_certain:
            policy, reference = torch.cat([policy, -policy]), torch.cat([reference, -reference])
            mass, example = torch.cat([mass * pairs.preference, mass * (1 - pairs.preference)]), example.repeat(2)
        i, j, width = coupling(policy, mass, reference, mass)
        values = width * self.link(policy.index_select(0, i) - reference.index_select(0, j))
        return (Term(values, example[i], Divisor.EXAMPLES),)


@dataclass(frozen=True)
class DominantRewards(ObjectiveBase):
    """ℓ = ∫ link( r₊(q) − r₋(q) ) dq, r₊ and r₋ the quantiles of desirable and of undesirable rewards β log π/π_ref.

    Classes of different size are compared quantile by quantile; masses are the responses' weights. The loss of a step
    with only one class is 0.
    """

    reward: LogRatio
    link: Link
    view: ClassVar[type[UnpairedResponses]] = UnpairedResponses
    shape: ClassVar[Shape] = "unpaired"
    coupled: ClassVar[bool] = True

    def __call__(self, responses: Responses, unpaired: UnpairedResponses, /) -> tuple[Term, ...]:
        """Return the loss of each pair of quantiles, with its mass."""
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
    """Match a and b quantile by quantile: the optimal transport on a line. No gradient flows through the order.

    Args:
        a: Values of one side.
        mass_a: Their masses.
        b: Values of the other side.
        mass_b: Their masses, with the same sum as `mass_a`.

    Returns:
        Indices into a and into b of the values that are matched, and the mass of each match.
    """
    order_a, order_b = (torch.sort(values.detach(), stable=True).indices for values in (a, b))
    ends_a, ends_b = torch.cumsum(mass_a[order_a], 0), torch.cumsum(mass_b[order_b], 0)
    ends = torch.sort(torch.cat([ends_a, ends_b])).values
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    middle = (starts + ends) / 2
    i = torch.searchsorted(ends_a, middle).clamp(max=len(a) - 1)
    j = torch.searchsorted(ends_b, middle).clamp(max=len(b) - 1)
    return order_a[i], order_b[j], ends - starts
