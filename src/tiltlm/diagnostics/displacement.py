"""Likelihood displacement: the margin grows while the chosen responses themselves become less likely.

A loss of the margin controls only S(chosen) − S(rejected), so both can fall together. The probability that they lose
goes to responses that no row compares. The margin does not show this; the shifts measured here do.
"""

from dataclasses import dataclass

from tiltlm.core.errors import ConfigError
from tiltlm.diagnostics.pairs import PairLogps
from tiltlm.estimates.intervals import Interval, paired_difference, unit_means, wilson


@dataclass(frozen=True)
class Displacement:
    """Shifts of log-probability from before to after training, as means over examples."""

    chosen: Interval
    """S(chosen) after − before, nats per response."""
    rejected: Interval
    """S(rejected) after − before, nats per response."""
    share_chosen_fell: Interval
    """Share of examples whose chosen responses became less likely, by the mean over the example's comparisons."""


def measure_displacement(before: PairLogps, after: PairLogps, *, level: float = 0.95, seed: int = 0) -> Displacement:
    """Return how far the log-probabilities of both sides moved between two policies.

    Args:
        before: The comparisons under the policy before training.
        after: The same comparisons, in the same order, under the policy after it.
        level: Share of repetitions in which the intervals hold the truth.
        seed: Seed of the bootstrap over examples.

    Raises:
        ConfigError: the comparisons are not the same.
    """
    if before.chosen.shape != after.chosen.shape or (before.unit != after.unit).any():
        raise ConfigError(
            f"the {len(before.chosen)} comparisons before and the {len(after.chosen)} after training are not the same "
            "rows in the same order; measure both on the same comparisons",
            code="other_rows",
        )
    falls = unit_means(after.chosen - before.chosen, before.unit) < 0
    return Displacement(
        chosen=paired_difference(after.chosen, before.chosen, before.unit, level=level, seed=seed),
        rejected=paired_difference(after.rejected, before.rejected, before.unit, level=level, seed=seed),
        share_chosen_fell=wilson(int(falls.sum()), len(falls), level),
    )
