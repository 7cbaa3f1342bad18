"""Loops on the plane of KL and reward: one curve a loop, one point a round, from the cards alone.

The samples of a round are drawn by the policy before it trains on them. So a point belongs to what the rounds before
it have spent, and no sample has been trained on by the policy that drew it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Literal

import numpy as np

from tiltlm.diagnostics import Interval, mean_of_repetitions


@dataclass(frozen=True)
class RoundPoint:
    """The policy that drew the samples of one round."""

    round: int
    kl: Interval
    """To the policy before the first round, nats per response."""
    reward: Interval
    """Mean score of the samples."""
    num_tokens: float
    """Mean length of a sample."""
    cut_share: float
    sampled_tokens: int
    """Tokens that all rounds before this one sampled."""
    judgements: int
    """Judgements that all rounds before this one asked for."""


@dataclass(frozen=True)
class LoopCurve:
    """The rounds of a loop; with several seeds, means over them with Student's intervals."""

    name: str
    knobs: Mapping[str, Any]
    """The settings that differ between the loops, without seeds."""
    score: Literal["reward", "held_out"]
    """Number of the cards that is the reward here: of the judge that trains, or of one that does not."""
    points: tuple[RoundPoint, ...]
    num_seeds: int = 1

    @property
    def best(self) -> RoundPoint:
        """The round with the highest reward."""
        return max(self.points, key=lambda point: point.reward.estimate)

    @property
    def has_fallen(self) -> bool:
        """True if the last round has clearly less reward than the best one: their intervals do not meet."""
        return self.points[-1].reward.high < self.best.reward.low


def join_seeds(curves: Sequence[LoopCurve]) -> tuple[LoopCurve, ...]:
    """Return the curves, with repetitions of one loop as one: those with equal settings but for seeds.

    A joined curve has the rounds that all of its loops have.
    """
    groups: dict[str, list[LoopCurve]] = {}
    for curve in curves:
        groups.setdefault(repr((curve.score, sorted(curve.knobs.items(), key=str))), []).append(curve)
    return tuple(own[0] if len(own) == 1 else _joined(own) for own in groups.values())


def _joined(curves: Sequence[LoopCurve]) -> LoopCurve:
    letters = zip(*(curve.name for curve in curves), strict=False)
    shared = "".join(own[0] for own in takewhile(lambda own: len(set(own)) == 1, letters))
    name = shared.rstrip("-_. (=") or curves[0].name
    rounds = zip(*(curve.points for curve in curves), strict=False)
    points = tuple(_mean_round(own) for own in rounds)
    return LoopCurve(name, curves[0].knobs, curves[0].score, points, len(curves))


def _mean_round(points: Sequence[RoundPoint]) -> RoundPoint:
    kl = mean_of_repetitions([point.kl.estimate for point in points])
    return RoundPoint(
        round=points[0].round,
        kl=Interval(kl.estimate, max(0.0, kl.low), kl.high, kl.level, kl.n),
        reward=mean_of_repetitions([point.reward.estimate for point in points]),
        num_tokens=float(np.mean([point.num_tokens for point in points])),
        cut_share=float(np.mean([point.cut_share for point in points])),
        sampled_tokens=round(float(np.mean([point.sampled_tokens for point in points]))),
        judgements=round(float(np.mean([point.judgements for point in points]))),
    )
