"""Length bias of comparisons: how often the preferred response is the longer one, and how much longer it is.

If length alone predicts the label, a policy can learn to write more in place of what was meant. The numbers are
collected in one pass, and those of several blocks of rows merge into those of all rows.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import floor, log10, nan

import numpy as np

from tiltlm.estimates.intervals import Interval
from tiltlm.estimates.unit_sums import UnitSums

EXACT = 1000
"""Numbers below this are counted as they are; larger ones are rounded to three digits, so that few are distinct."""


def rounded(number: int) -> int:
    """Return a number as histograms hold it: as it is below `EXACT`, else with three digits. The sign stays."""
    size = abs(number)
    if size < EXACT:
        return number
    unit: int = 10 ** (floor(log10(size)) - 2)
    return (1 if number > 0 else -1) * unit * ((2 * size + unit) // (2 * unit))


@dataclass
class LengthBias:
    """Lengths of the two responses of comparisons, in one unit of length: characters, words or tokens.

    The chosen response is the one that the label prefers. With a soft label p, all numbers are expectations over a
    label that is drawn with p. Comparisons with p = ½ prefer neither response, and are only counted.
    """

    chosen: Counter[int] = field(default_factory=Counter)
    """Histogram of the lengths of chosen responses (see `rounded`)."""
    rejected: Counter[int] = field(default_factory=Counter)
    """The same of rejected responses."""
    gaps: dict[int, float] = field(default_factory=dict)
    """Histogram of the length of the preferred response minus that of the other one."""
    num_equal: int = 0
    """Comparisons of two responses of the same length. They count ½ where the longer one is asked for."""
    num_ties: int = 0
    """Comparisons whose label is ½. No other number counts them."""
    sums: UnitSums = field(default_factory=lambda: UnitSums(2))
    """By prompt: whether the preferred response is longer, and the gap."""
    own: float = 0.0
    """The part of the sum behind `auc` that compares a pair with itself."""

    def add(self, chosen_length: int, rejected_length: int, preference: float = 1.0, unit: str | None = None) -> None:
        """Add a comparison.

        Args:
            chosen_length: Length of the response in the column `chosen`.
            rejected_length: Length of the other one.
            preference: P(chosen ≻ rejected). Below ½ the two change places.
            unit: The prompt. Comparisons of one prompt are dependent. None: this one is independent of all others.
        """
        if preference == 0.5:
            self.num_ties += 1
            return
        if preference < 0.5:
            chosen_length, rejected_length, preference = rejected_length, chosen_length, 1 - preference
        self.chosen[rounded(chosen_length)] += 1
        self.rejected[rounded(rejected_length)] += 1
        gap, p, q = chosen_length - rejected_length, preference, 1 - preference
        self.num_equal += gap == 0
        above = 0.5 if gap == 0 else float(gap > 0)
        self.sums.add((p * above + q * (1 - above), (p - q) * gap), unit)
        self.own += p * p * above + p * q + q * q * (1 - above)
        for side, weight in ((rounded(gap), p), (rounded(-gap), q)):
            if weight:
                self.gaps[side] = self.gaps.get(side, 0.0) + weight

    def merge(self, later: "LengthBias") -> None:
        """Add the comparisons of later rows."""
        self.chosen.update(later.chosen)
        self.rejected.update(later.rejected)
        for gap, weight in later.gaps.items():
            self.gaps[gap] = self.gaps.get(gap, 0.0) + weight
        self.num_equal += later.num_equal
        self.num_ties += later.num_ties
        self.sums.merge(later.sums)
        self.own += later.own

    @property
    def num_pairs(self) -> int:
        """Comparisons whose label prefers one response."""
        return self.sums.num_rows

    @property
    def longer(self) -> Interval | None:
        """P(the preferred response is longer), equal lengths ½, with an interval over prompts; None without pairs."""
        return self.sums.share(0) if self.num_pairs else None

    @property
    def mean_gap(self) -> Interval | None:
        """Mean length of the preferred response minus that of the other one; None without pairs."""
        return self.sums.ratio(1) if self.num_pairs else None

    @property
    def auc(self) -> float:
        """The area under the ROC curve of the gap as a predictor of the label; ½ is chance.

        Each pair gives two cases: its gap where the preferred response comes first, and minus its gap where it comes
        second. The AUC is the probability that a case of the first kind is above one of the second kind, of another
        pair. NaN with fewer than two pairs.
        """
        if self.num_pairs < 2:
            return nan
        gaps = np.array(sorted(self.gaps))
        weights = np.array([self.gaps[int(gap)] for gap in gaps])
        below = np.concatenate([[0.0], np.cumsum(weights[::-1])])  # of -gaps in ascending order
        mirrored = -gaps[::-1]
        first, last = np.searchsorted(mirrored, gaps, "left"), np.searchsorted(mirrored, gaps, "right")
        n = self.num_pairs
        return float((np.dot(weights, (below[first] + below[last]) / 2) - self.own) / (n * n - n))

    def as_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return {
            "pairs": self.num_pairs,
            "equal": self.num_equal,
            "ties": self.num_ties,
            "longer": _plain(self.longer),
            "mean_gap": _plain(self.mean_gap),
            "auc": None if self.num_pairs < 2 else self.auc,
            "chosen": summarise(self.chosen),
            "rejected": summarise(self.rejected),
        }


def _plain(interval: Interval | None) -> dict[str, float | None] | None:
    """Return an interval for JSON, which has no NaN."""
    if interval is None:
        return None
    return {k: None if v != v else v for k, v in vars(interval).items()}


def summarise(lengths: Mapping[int, float]) -> dict[str, float] | None:
    """Return mean, median, 95th and 99.9th percentile and the largest of a histogram; None if it is empty."""
    if not lengths:
        return None
    values = np.array(sorted(lengths))
    weights = np.array([lengths[int(value)] for value in values], dtype=np.float64)
    up_to = np.cumsum(weights) / weights.sum()
    middle, p95, p999 = (float(values[np.searchsorted(up_to, q - 1e-12)]) for q in (0.5, 0.95, 0.999))
    mean = float(np.average(values, weights=weights))
    return {"mean": mean, "median": middle, "p95": p95, "p999": p999, "max": float(values[-1])}
