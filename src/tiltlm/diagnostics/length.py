"""Length bias: accuracy of a rule that sees only the lengths of two responses, beside the accuracy of the policy.

If the rule "the longer response is the chosen one" is as accurate as the policy, the policy may have learned only that.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tiltlm.core.errors import ConfigError
from tiltlm.estimates.intervals import Interval, bootstrap_mean, paired_difference, unit_means

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LengthRule:
    """Predicts the chosen response of a comparison from the two lengths."""

    prefers: Literal["longer", "shorter"]

    @classmethod
    def fit(
        cls, chosen_lengths: ArrayLike, rejected_lengths: ArrayLike, units: ArrayLike | None = None
    ) -> "LengthRule":
        """Return the rule that is right more often on training comparisons.

        Args:
            chosen_lengths: [B] tokens of the chosen responses.
            rejected_lengths: [B] tokens of the rejected responses.
            units: [B] the example that each comparison belongs to; each example has one vote. None means that each
                comparison has one.
        """
        longer = cls("longer").correct(chosen_lengths, rejected_lengths)
        return cls("longer" if unit_means(longer, units).mean() >= 0.5 else "shorter")

    def correct(self, chosen_lengths: ArrayLike, rejected_lengths: ArrayLike) -> Floats:
        """Return [B]: 1 where the rule picks the chosen response, 0 where the rejected one, ½ for equal lengths."""
        gap = np.asarray(chosen_lengths, dtype=np.float64) - np.asarray(rejected_lengths, dtype=np.float64)
        votes: Floats = np.heaviside(gap if self.prefers == "longer" else -gap, 0.5)
        return votes


def expected_agreement(margins: ArrayLike, preference: ArrayLike = 1.0) -> Floats:
    """Return [B]: the chance that a draw of the label agrees with the sign of the margin, p or 1 − p; ½ for margin 0.

    Args:
        margins: [B] prediction for the first response of a comparison minus that for the second one.
        preference: [B] soft labels p = P(first ≻ second).
    """
    agrees, p = np.heaviside(np.asarray(margins, dtype=np.float64), 0.5), np.asarray(preference, dtype=np.float64)
    expected: Floats = p * agrees + (1 - p) * (1 - agrees)
    return expected


@dataclass(frozen=True)
class LengthBias:
    """Accuracy of a length rule beside that of a policy on the same held-out comparisons, intervals over examples."""

    rule_accuracy: Interval
    advantage: Interval
    """Accuracy of the policy − accuracy of the rule, paired."""


def measure_length_bias(
    rule: LengthRule,
    chosen_lengths: ArrayLike,
    rejected_lengths: ArrayLike,
    margins: ArrayLike,
    units: ArrayLike,
    preference: ArrayLike = 1.0,
    *,
    level: float = 0.95,
    seed: int = 0,
) -> LengthBias:
    """Compare a length rule with the reward margins of a policy.

    Args:
        rule: A rule fitted on training comparisons, so that it has not seen these.
        chosen_lengths: [B] tokens of the chosen responses.
        rejected_lengths: [B] tokens of the rejected responses.
        margins: [B] r(chosen) − r(rejected), in units of the reward. The sign is the policy's prediction.
        units: [B] the example that each comparison belongs to.
        preference: [B] soft labels p = P(chosen ≻ rejected); policy and rule are counted by `expected_agreement`.
        level: Share of repetitions in which the intervals hold the truth.
        seed: Seed of the bootstrap over examples.

    Raises:
        ConfigError: the arrays differ in length.
    """
    chosen, rejected = np.asarray(chosen_lengths, dtype=np.float64), np.asarray(rejected_lengths, dtype=np.float64)
    gains, groups = np.asarray(margins, dtype=np.float64), np.asarray(units)
    if not chosen.shape == rejected.shape == gains.shape == groups.shape:
        raise ConfigError(
            f"lengths of shapes {chosen.shape} and {rejected.shape}, margins {gains.shape}, units {groups.shape}: "
            "the four arrays must have one number per comparison",
            code="unequal_lengths",
        )
    by_rule = expected_agreement(rule.correct(chosen, rejected) - 0.5, preference)
    by_policy = expected_agreement(gains, preference)
    return LengthBias(
        rule_accuracy=bootstrap_mean(by_rule, groups, level=level, seed=seed),
        advantage=paired_difference(by_policy, by_rule, groups, level=level, seed=seed),
    )
