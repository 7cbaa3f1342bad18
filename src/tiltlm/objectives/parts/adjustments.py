"""Adjustments: changes of a comparison's margin between reward and link.

An adjustment reads both responses of a comparison and their data: score gaps, lengths, roles.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tiltlm.core import DataError, Pairs, Responses, segment_sum
from tiltlm.core.checks import finite, not_negative, positive
from tiltlm.core.logps import Extra
from tiltlm.core.needs import Need
from tiltlm.objectives.parts.base import Part


class Adjustment(Part, ABC):
    """A function of the margin u of each comparison, in units of the reward."""

    @abstractmethod
    def __call__(self, margin: Float[Tensor, " B"], responses: Responses, pairs: Pairs, /) -> Float[Tensor, " B"]:
        """Return the adjusted margins."""


@dataclass(frozen=True)
class Target(Adjustment):
    """u − target: the chosen reward must exceed the rejected one by this much."""

    target: float

    def __post_init__(self) -> None:
        finite(target=self.target)

    def __call__(self, margin: Float[Tensor, " B"], responses: Responses, pairs: Pairs, /) -> Float[Tensor, " B"]:
        """Return the adjusted margins."""
        del responses, pairs
        return margin - self.target


@dataclass(frozen=True)
class LogScoreMargin(Adjustment):
    """u − α·log(score_w − score_l): the larger the score gap, the larger the required margin. ODPO's offset."""

    alpha: float
    needs: ClassVar[frozenset[Need]] = frozenset({"strict_scores"})

    def __post_init__(self) -> None:
        not_negative(alpha=self.alpha)

    def __call__(self, margin: Float[Tensor, " B"], responses: Responses, pairs: Pairs, /) -> Float[Tensor, " B"]:
        """Return the adjusted margins."""
        del responses
        return margin - self.alpha * torch.log(gaps(pairs))


@dataclass(frozen=True)
class ScoreTarget(Adjustment):
    """u − (score_w − score_l): with a squared link, REBEL's regression."""

    needs: ClassVar[frozenset[Need]] = frozenset({"scores"})

    def __call__(self, margin: Float[Tensor, " B"], responses: Responses, pairs: Pairs, /) -> Float[Tensor, " B"]:
        """Return the adjusted margins."""
        del responses
        return margin - gaps(pairs)


@dataclass(frozen=True)
class LengthBonus(Adjustment):
    """u + α·(T_w − T_l): part of a preference for the longer response is explained by its length. R-DPO's term."""

    alpha: float
    """Reward per token."""

    def __post_init__(self) -> None:
        finite(alpha=self.alpha)

    def __call__(self, margin: Float[Tensor, " B"], responses: Responses, pairs: Pairs, /) -> Float[Tensor, " B"]:
        """Return the adjusted margins."""
        lengths = responses.num_tokens.to(margin.dtype)
        return margin + self.alpha * (lengths[pairs.chosen] - lengths[pairs.rejected])


@dataclass(frozen=True)
class ChosenDrop(Adjustment):
    """u − weight·max(0, log π_ref(y_w|x) − log π(y_w|x)): a penalty on chosen responses below the reference. DPOP's.

    No gradient if the chosen response is as likely as under the reference, or likelier.
    """

    weight: float
    """Reward per nat of the whole response."""
    needs_reference: ClassVar[bool] = True

    def __post_init__(self) -> None:
        not_negative(weight=self.weight)

    def __call__(self, margin: Float[Tensor, " B"], responses: Responses, pairs: Pairs, /) -> Float[Tensor, " B"]:
        """Return the adjusted margins."""
        return margin - self.weight * (-responses.log_ratios[pairs.chosen]).clamp(min=0)


@dataclass(frozen=True)
class ExcessDiscount(Adjustment):
    """u − discount·(e_w − e_l), e the log-ratio of a response's tokens beyond the shorter response's length. LD-DPO's.

    If both responses have the same length, nothing changes.
    """

    discount: float
    """Reward per nat that is subtracted: β(1 − α) leaves a share α of the excess."""
    needs_reference: ClassVar[bool] = True

    def __post_init__(self) -> None:
        finite(discount=self.discount)

    def __call__(self, margin: Float[Tensor, " B"], responses: Responses, pairs: Pairs, /) -> Float[Tensor, " B"]:
        """Return the adjusted margins."""
        shorter = torch.minimum(responses.num_tokens[pairs.chosen], responses.num_tokens[pairs.rejected])
        chosen, rejected = (excess(responses, side, shorter) for side in (pairs.chosen, pairs.rejected))
        return margin - self.discount * (chosen - rejected)


@dataclass(frozen=True)
class PositionKL(Adjustment):
    """u − weight·(D_l − D_w), D(y) = Σ_t KL( π_ref(·|x, y_<t) ‖ π(·|x, y_<t) ) over the whole vocabulary. TDPO's term.

    Gradient flows through D_l, and through D_w unless `holds_chosen`.
    """

    weight: float
    """Reward per nat."""
    holds_chosen: bool
    """True: D_w has no gradient (TDPO2)."""
    needs_reference: ClassVar[bool] = True
    extras: ClassVar[frozenset[Extra]] = frozenset({"ref_kls"})

    def __post_init__(self) -> None:
        not_negative(weight=self.weight)

    def __call__(self, margin: Float[Tensor, " B"], responses: Responses, pairs: Pairs, /) -> Float[Tensor, " B"]:
        """Return the adjusted margins."""
        sums = segment_sum(responses.extra("ref_kls"), responses.response_index, len(responses.num_tokens))
        chosen = sums[pairs.chosen]
        return margin - self.weight * (sums[pairs.rejected] - (chosen.detach() if self.holds_chosen else chosen))


@dataclass(frozen=True)
class Dispersion(Adjustment):
    """φ·u, φ = −scale·log H̄: the higher the reference's entropy on a comparison's tokens, the smaller the margin.

    H̄ is the mean over the tokens of both responses of H(π_ref(·|·)) / log V, which lies in [0, 1]. This is the
    contextual scale of Mallows-DPO, without gradient.
    """

    scale: float
    needs_reference: ClassVar[bool] = True
    extras: ClassVar[frozenset[Extra]] = frozenset({"ref_entropy_shares"})

    def __post_init__(self) -> None:
        positive(scale=self.scale)

    def __call__(self, margin: Float[Tensor, " B"], responses: Responses, pairs: Pairs, /) -> Float[Tensor, " B"]:
        """Return the adjusted margins."""
        sums = segment_sum(responses.extra("ref_entropy_shares"), responses.response_index, len(responses.num_tokens))
        lengths = responses.num_tokens[pairs.chosen] + responses.num_tokens[pairs.rejected]
        share = (sums[pairs.chosen] + sums[pairs.rejected]) / lengths
        return -self.scale * torch.log(share.detach().clamp(min=1e-12)) * margin


def gaps(pairs: Pairs) -> Float[Tensor, " B"]:
    """Return the score gaps of comparisons.

    Raises:
        DataError: A response has no score.
    """
    if pairs.gap is None:
        raise DataError(
            "this objective reads scores, and the data has none; add the columns score_chosen and score_rejected",
            code="needs_scores",
        )
    return pairs.gap


def excess(responses: Responses, side: Int[Tensor, " B"], kept: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Return the log-ratio of each response's tokens after its first `kept`, nats, float64."""
    sums = torch.cumsum(responses.token_log_ratios, 0)
    sums = torch.cat([sums.new_zeros(1), sums])
    ends = torch.cumsum(responses.num_tokens, 0)
    starts = ends - responses.num_tokens
    return sums.index_select(0, ends[side]) - sums.index_select(0, starts[side] + kept)
