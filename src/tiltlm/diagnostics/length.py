"""Length bias: what a rule that only counts tokens would get right, beside what the policy gets right.

Where "the longer one is chosen" is as accurate as the policy, the policy may have learned no more than that.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tiltlm.core.errors import ConfigError
from tiltlm.diagnostics.intervals import Interval, bootstrap, bootstrap_mean, paired_difference, unit_means

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LengthRule:
    """Predicts the winner of a comparison from the two lengths alone."""

    prefers: Literal["longer", "shorter"]

    @classmethod
    def fit(
        cls, chosen_lengths: ArrayLike, rejected_lengths: ArrayLike, units: ArrayLike | None = None
    ) -> "LengthRule":
        """The direction that is right more often on training comparisons, each example having one vote."""
        longer = cls("longer").correct(chosen_lengths, rejected_lengths)
        return cls("longer" if unit_means(longer, units).mean() >= 0.5 else "shorter")

    def correct(self, chosen_lengths: ArrayLike, rejected_lengths: ArrayLike) -> Floats:
        """[B] 1 where the rule picks the chosen response, 0 where the rejected one, ½ for equal lengths."""
        gap = np.asarray(chosen_lengths, dtype=np.float64) - np.asarray(rejected_lengths, dtype=np.float64)
        verdicts: Floats = np.heaviside(gap if self.prefers == "longer" else -gap, 0.5)
        return verdicts


@dataclass(frozen=True)
class LengthBias:
    """The length rule beside the policy on the same held-out comparisons, intervals over examples."""

    rule: LengthRule
    rule_accuracy: Interval
    policy_accuracy: Interval
    advantage: Interval
    """Policy accuracy − rule accuracy, paired."""
    longer_chosen: Interval
    """Share of comparisons in which the chosen response is the longer one, equal lengths ½."""
    correlation: Interval
    """Pearson correlation of the length gap with the reward margin; NaN where either does not vary."""


def measure_length_bias(
    rule: LengthRule,
    chosen_lengths: ArrayLike,
    rejected_lengths: ArrayLike,
    margins: ArrayLike,
    units: ArrayLike,
    *,
    level: float = 0.95,
    seed: int = 0,
) -> LengthBias:
    """Measure a rule, fitted elsewhere, against the policy's reward margins.

    Args:
        rule: Fitted on training comparisons, so that it had no look at these.
        chosen_lengths: [B] tokens; likewise `rejected_lengths`.
        margins: [B] r(chosen) − r(rejected), in units of the reward; its sign is the policy's prediction.
        units: [B] the example each comparison belongs to.
    """
    chosen, rejected = np.asarray(chosen_lengths, dtype=np.float64), np.asarray(rejected_lengths, dtype=np.float64)
    gains, groups = np.asarray(margins, dtype=np.float64), np.asarray(units)
    if not chosen.shape == rejected.shape == gains.shape == groups.shape:
        raise ConfigError(
            f"lengths {chosen.shape} and {rejected.shape}, margins {gains.shape}, units {groups.shape}: "
            "give one of each a comparison",
            code="unequal_lengths",
        )
    by_rule, by_policy = rule.correct(chosen, rejected), np.heaviside(gains, 0.5)
    return LengthBias(
        rule=rule,
        rule_accuracy=bootstrap_mean(by_rule, groups, level=level, seed=seed),
        policy_accuracy=bootstrap_mean(by_policy, groups, level=level, seed=seed),
        advantage=paired_difference(by_policy, by_rule, groups, level=level, seed=seed),
        longer_chosen=bootstrap_mean(LengthRule("longer").correct(chosen, rejected), groups, level=level, seed=seed),
        correlation=_correlation(chosen - rejected, gains, groups, level, seed),
    )


def _correlation(x: Floats, y: Floats, units: NDArray[np.generic], level: float, seed: int) -> Interval:
    """Pearson correlation in which every unit has one vote, from the moments of each unit; bootstrap over units."""
    x, y = x - x.mean(), y - y.mean()  # small numbers lose less to rounding
    moments = np.stack([unit_means(m, units) for m in (x, y, x * x, y * y, x * y)], 1)

    def statistic(draw: NDArray[np.intp]) -> Floats:
        mx, my, xx, yy, xy = np.moveaxis(moments[draw].mean(1), -1, 0)
        spread = np.sqrt(np.maximum(xx - mx * mx, 0) * np.maximum(yy - my * my, 0))
        correlation: Floats = np.divide(xy - mx * my, spread, out=np.full_like(spread, np.nan), where=spread > 1e-12)
        return correlation

    return bootstrap(statistic, len(moments), level=level, seed=seed)
