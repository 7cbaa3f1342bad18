"""Likelihood displacement: the margin grows while the chosen responses themselves become less likely.

A margin-only loss controls S(chosen) − S(rejected) and nothing else, so both can fall together; the probability they
lose goes to responses nobody compared. The margin alone hides it.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from tiltlm.core.errors import ConfigError
from tiltlm.diagnostics.intervals import Interval, paired_difference, unit_means, wilson
from tiltlm.diagnostics.pairs import PairLogps

DisplacementKind = Literal["raised", "displaced", "unclear"]


@dataclass(frozen=True)
class Displacement:
    """Shifts from the start of training, mean over examples, intervals over examples."""

    chosen: Interval
    """S(chosen) after − before, nats per response."""
    rejected: Interval
    chosen_per_token: Interval
    """A(chosen) after − before, nats per token."""
    rejected_per_token: Interval
    share_chosen_fell: Interval
    """Share of examples whose chosen responses became less likely, in the mean over their comparisons."""

    @property
    def verdict(self) -> DisplacementKind:
        """`displaced` where the chosen shift per token is below 0 with its whole interval, `raised` where above."""
        if self.chosen_per_token.high < 0:
            return "displaced"
        if self.chosen_per_token.low > 0:
            return "raised"
        return "unclear"

    def sentence(self) -> str:
        """The verdict in words, with its numbers."""
        shifts = (
            f"chosen responses moved by {self.chosen_per_token} nats per token, rejected by {self.rejected_per_token}"
        )
        match self.verdict:
            case "displaced":
                share = round(100 * self.share_chosen_fell.estimate)
                return (
                    f"Displacement: the chosen responses became less likely ({share} % of examples); {shifts}. "
                    "Probability went to responses that nobody compared: read samples before trusting the margin."
                )
            case "raised":
                return f"No displacement: the chosen responses became more likely; {shifts}."
            case "unclear":
                return f"Displacement not settled: the interval of the chosen shift holds 0; {shifts}."


def measure_displacement(before: PairLogps, after: PairLogps, *, level: float = 0.95, seed: int = 0) -> Displacement:
    """Shifts of both sides between two policies on the same comparisons.

    Raises:
        ConfigError: the two are not of the same comparisons.
    """
    if before.chosen.shape != after.chosen.shape or (before.unit != after.unit).any():
        raise ConfigError(
            f"{len(before.chosen)} comparisons before, {len(after.chosen)} after, or in another order; "
            "displacement compares the same rows",
            code="other_rows",
        )

    def shift(late: np.ndarray, early: np.ndarray, tokens: np.ndarray | float = 1.0) -> Interval:
        return paired_difference(late / tokens, early / tokens, before.unit, level=level, seed=seed)

    falls = unit_means(after.chosen - before.chosen, before.unit) < 0
    return Displacement(
        chosen=shift(after.chosen, before.chosen),
        rejected=shift(after.rejected, before.rejected),
        chosen_per_token=shift(after.chosen, before.chosen, before.chosen_tokens),
        rejected_per_token=shift(after.rejected, before.rejected, before.rejected_tokens),
        share_chosen_fell=wilson(int(falls.sum()), len(falls), level),
    )
