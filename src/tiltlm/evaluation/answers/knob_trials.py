"""What a search for the value of a knob has found: the values that were measured, and their KL."""

import math
from dataclasses import dataclass

from tiltlm.diagnostics import Interval

CLOSE = 0.05
"""A KL is near enough if it differs from the wanted one by at most this share of it."""


@dataclass(frozen=True)
class Trial:
    """A value of the knob, and the KL that was measured there."""

    value: float
    kl: Interval


@dataclass(frozen=True)
class KnobSearch:
    """What a search found."""

    knob: str
    wanted: float
    trials: tuple[Trial, ...]
    """All values that were measured, in ascending order."""
    num_trained: int
    """Runs that were trained by the search itself."""

    @property
    def best(self) -> Trial:
        """The value whose KL is nearest to the wanted one, by their ratio."""
        return min(self.trials, key=lambda trial: abs(gap(trial, self.wanted)))

    @property
    def is_found(self) -> bool:
        """True if the KL of the best value is near enough."""
        return abs(self.best.kl.estimate / self.wanted - 1) <= CLOSE


def gap(trial: Trial, wanted: float) -> float:
    """Return log(KL / wanted). A KL that was measured below a thousandth of the wanted one counts as that."""
    return math.log(max(trial.kl.estimate, 1e-3 * wanted) / wanted)
