"""Checks of lengths: does the longer response win, and are some rows far longer than the others?"""

import math
from array import array
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from functools import cached_property
from typing import Self

import numpy as np

from tiltlm.data.quality.checked_row import Check, CheckedRow, Mark, Marked
from tiltlm.data.quality.rules import BIASED, FEW, Finding, Rule
from tiltlm.data.stats.lengths import LengthBias, rounded
from tiltlm.estimates.intervals import Interval

HUGE = 1 << 20
"""Bytes of a row that are unusual: 1 MiB."""
FAR = 10
"""A row is far longer than the others if it has this many times the 99th percentile."""
FEW_ROWS = 100
"""With fewer rows a percentile says nothing about the longest ones."""


def auc_of_lengths(better: Counter[int], worse: Counter[int]) -> float:
    """Return P(a desirable response is longer than an undesirable one), equal lengths as ½.

    Args:
        better: Lengths of desirable responses → how many.
        worse: Lengths of undesirable responses → how many.
    """
    lengths = np.array(sorted(worse))
    counts = np.cumsum([0, *(worse[int(n)] for n in lengths)])
    total = 0.0
    for length, times in better.items():
        low, high = np.searchsorted(lengths, length, "left"), np.searchsorted(lengths, length, "right")
        total += times * (counts[low] + counts[high]) / 2
    return float(total / (sum(better.values()) * counts[-1]))


class LengthPredictsLabel(Check):
    """D10: does the length of a response predict that it is preferred?"""

    rules = (
        Rule(
            "length_bias",
            "D10",
            "warning",
            "a rule that reads only the length predicts the label, so a policy can win by length alone",
            "use an objective that takes length out (length_dpo, simpo, ln_dpo), or balance the data by length",
            unit="comparisons",
        ),
        Rule(
            "length_predicts_label",
            "D10",
            "warning",
            "desirable and undesirable responses have different lengths, so a policy can win by length alone",
            "balance the lengths of the two labels",
            unit="responses",
        ),
    )

    def __init__(self) -> None:
        self.compared = LengthBias()
        """Lengths of the two responses of comparisons."""
        self.by_label: tuple[Counter[int], Counter[int]] = (Counter(), Counter())
        """Lengths of undesirable and of desirable responses → how many."""
        self.others: Counter[int] = Counter()
        """Lengths of the responses of all other rows → how many."""

    def see(self, row: CheckedRow) -> Iterable[Mark]:
        """Count the lengths."""
        for c in row.record.comparisons:
            lengths = row.lengths[c.chosen], row.lengths[c.rejected]
            self.compared.add(*lengths, c.preference, row.record.prompt_key)
        for length, label in zip(row.lengths, row.record.labels, strict=False):
            self.by_label[label][rounded(length)] += 1
        if not row.record.comparisons and not row.record.labels:
            self.others.update(map(rounded, row.lengths))
        return ()

    def merge(self, later: Self, offset: int) -> None:
        """Add the lengths of later rows."""
        del offset
        self.compared.merge(later.compared)
        self.others.update(later.others)
        for own, more in zip(self.by_label, later.by_label, strict=True):
            own.update(more)

    def parts(self) -> dict[str, Counter[int]]:
        """Return the lengths of each part of the data that there is."""
        undesirable, desirable = self.by_label
        named = {
            "chosen": self.compared.chosen,
            "rejected": self.compared.rejected,
            "desirable": desirable,
            "undesirable": undesirable,
            "response": self.others,
        }
        return {name: lengths for name, lengths in named.items() if lengths}

    @cached_property
    def longer(self) -> Interval | None:
        """P(the longer response is preferred) of all rows, equal lengths as ½; None without comparisons."""
        return self.compared.longer

    @cached_property
    def gap(self) -> Interval | None:
        """Mean length of the preferred response minus that of the other, of all rows; None without comparisons."""
        return self.compared.mean_gap

    @property
    def auc(self) -> float | None:
        """How well the length predicts the label; None if there are too few labels."""
        worse, better = self.by_label
        if self.compared.num_pairs >= FEW:
            return self.compared.auc
        return auc_of_lengths(better, worse) if min(sum(worse.values()), sum(better.values())) >= FEW else None

    def _is_certain(self, auc: float) -> bool:
        """Return whether chance alone does not explain the bias.

        With pairs, an interval must exclude balanced lengths. With labels, the AUC must be more than two standard
        errors of Mann and Whitney's statistic from ½.
        """
        if self.longer is not None and self.gap is not None:
            return self.longer.low > 0.5 or self.longer.high < 0.5 or self.gap.excludes_zero
        a, b = (sum(counts.values()) for counts in self.by_label)
        return abs(auc - 0.5) > 2 * math.sqrt((a + b + 1) / (12 * a * b))

    def findings(self, marked: Marked) -> Iterator[Finding]:
        """Say how well length predicts the label, if it does."""
        del marked
        auc, bias = self.auc, self.compared
        if auc is None:
            return
        longer = self.longer if bias.num_pairs >= FEW else None
        shares = [auc, 1 - auc] + ([longer.estimate, 1 - longer.estimate] if longer is not None else [])
        if max(shares) <= BIASED or not self._is_certain(auc):
            return
        which = "longer" if auc > 0.5 else "shorter"
        if longer is not None and self.gap is not None:
            share = longer.estimate if auc > 0.5 else 1 - longer.estimate
            numbers: dict[str, Interval | float] = {"longer": longer, "gap": self.gap, "auc": auc}
            detail = f"the {which} response is preferred; AUC {auc:.2f}"
            count = round(share * bias.num_pairs)
            yield Finding(self.rule("length_bias"), count, bias.num_pairs, detail=detail, numbers=numbers)
        else:
            total = sum(map(sum, (c.values() for c in self.by_label)))
            detail = f"desirable responses are {which}; AUC {auc:.2f}"
            yield Finding(self.rule("length_predicts_label"), total, total, detail=detail, numbers={"auc": auc})


class Sizes(Check):
    """D17: rows that are huge, or far longer than the others."""

    rules = (
        Rule(
            "huge_row",
            "D17",
            "warning",
            "the row has more than 1 MiB of text",
            "look at it: it is often a whole file, or a loop of one token; shorten it, or delete it",
        ),
        Rule(
            "far_longer",
            "D17",
            "warning",
            f"the row has more than {FAR} times the text of the 99th percentile",
            "look at it; one such row decides the memory that a step needs",
        ),
    )

    def __init__(self) -> None:
        self.sizes = array("q")
        """Bytes of each row's text."""
        self._rows = array("q")

    def see(self, row: CheckedRow) -> Iterator[Mark]:
        """Mark huge rows, and remember sizes."""
        self.sizes.append(row.num_bytes)
        self._rows.append(row.index)
        if row.num_bytes > HUGE:
            yield Mark("huge_row", f"{row.num_bytes / HUGE:.1f} MiB")

    def merge(self, later: Self, offset: int) -> None:
        """Add the sizes of later rows."""
        self.sizes += later.sizes
        self._rows.extend(offset + row for row in later._rows)

    def by_row(self, rows: Container[int]) -> Iterator[tuple[int, int]]:
        """Yield the size of each of these rows, by its place among all rows."""
        return ((row, size) for row, size in zip(self._rows, self.sizes, strict=True) if row in rows)

    def late_marks(self) -> Iterator[tuple[int, Mark]]:
        """Mark rows that are far longer than the others, and not huge."""
        if len(self.sizes) < FEW_ROWS:
            return
        sizes = np.array(self.sizes)
        usual = max(float(np.percentile(sizes, 99, method="lower")), 1.0)
        for k in np.flatnonzero((sizes > FAR * usual) & (sizes <= HUGE)):
            yield self._rows[k], Mark("far_longer", f"{sizes[k]:,} bytes, 99 % of rows have at most {usual:,.0f}")


CHECKS = (LengthPredictsLabel, Sizes)
