"""Checks of lengths: does the longer response win, and are some rows far longer than the others?"""

from array import array
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tiltlm.data.quality.checked_row import Check, CheckedRow, Mark, Marked
from tiltlm.data.quality.rules import Finding, Measured, Rule

BIASED = 0.6
"""From this share on, a rule that reads only the length is too good (or below 1 − this, the shorter one wins)."""
FEW = 30
"""With fewer comparisons no bias is reported: chance alone goes beyond `BIASED`."""
HUGE = 1 << 20
"""Bytes of a row that are unusual: 1 MiB."""
FAR = 10
"""A row is far longer than the others if it has this many times the 99th percentile."""
FEW_ROWS = 100
"""With fewer rows a percentile says nothing about the longest ones."""


def auc_of_gaps(gaps: NDArray[np.float64]) -> float:
    """Return the AUC of a classifier that sees the difference of two lengths and says which response is better.

    Each comparison is shown in both orders, so its scores are +gap (better first) and −gap (worse first). The AUC is
    P(gap_i > −gap_j) + ½ P(gap_i = −gap_j) over all i, j.

    Args:
        gaps: [B] length of the better response minus that of the worse one.
    """
    ordered = np.sort(gaps)
    below = np.searchsorted(ordered, -gaps, side="left")
    not_above = np.searchsorted(ordered, -gaps, side="right")
    return float(1 - (below + not_above).mean() / (2 * len(gaps)))


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


class LengthBias(Check):
    """D10: does the length of a response predict that it is preferred?"""

    rules = (
        Rule(
            "longer_wins",
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
        self.gaps = array("q")
        """Length of the preferred response minus that of the other, one per comparison."""
        self._prompts = bytearray()
        self.by_label: tuple[Counter[int], Counter[int]] = (Counter(), Counter())
        """Lengths of undesirable and of desirable responses → how many."""
        self.all_lengths: dict[str, Counter[int]] = {"chosen": Counter(), "rejected": Counter(), "response": Counter()}
        """Lengths of responses by their part → how many."""

    def see(self, row: CheckedRow) -> Iterable[Mark]:
        """Remember the lengths."""
        for c in row.comparisons:
            self.gaps.append(row.lengths[c.chosen] - row.lengths[c.rejected])
            self._prompts += row.prompt_digest
        if len(row.record.comparisons) == 1:
            c = row.record.comparisons[0].oriented
            self.all_lengths["chosen"][row.lengths[c.chosen]] += 1
            self.all_lengths["rejected"][row.lengths[c.rejected]] += 1
        else:
            self.all_lengths["response"].update(row.lengths)
        for length, label in zip(row.lengths, row.record.labels, strict=False):
            self.by_label[label][length] += 1
        return ()

    def merge(self, later: Self, offset: int) -> None:
        """Add the lengths of later rows."""
        del offset
        self.gaps += later.gaps
        self._prompts += later._prompts
        for own, more in zip(self.by_label, later.by_label, strict=True):
            own.update(more)
        for name, lengths in later.all_lengths.items():
            self.all_lengths[name].update(lengths)

    def findings(self, marked: Marked) -> Iterator[Finding]:
        """Say how well length predicts the label, if it does."""
        del marked
        if len(self.gaps) >= FEW:
            gaps = np.array(self.gaps, np.float64)
            numbers = self.numbers()
            wins = numbers["longer"].mean
            if max(wins, 1 - wins, auc_of_gaps(gaps), 1 - auc_of_gaps(gaps)) > BIASED:
                count = int((gaps > 0).sum() if wins >= 0.5 else (gaps < 0).sum())
                which = "longer" if wins >= 0.5 else "shorter"
                yield Finding(
                    self.rule("longer_wins"),
                    count,
                    len(gaps),
                    detail=f"the {which} response is preferred",
                    numbers={**numbers, "auc": auc_of_gaps(gaps)},
                )
        worse, better = self.by_label
        if min(sum(worse.values()), sum(better.values())) >= FEW:
            auc = auc_of_lengths(better, worse)
            if max(auc, 1 - auc) > BIASED:
                total = sum(worse.values()) + sum(better.values())
                which = "longer" if auc > 0.5 else "shorter"
                detail = f"desirable responses are {which}: AUC {auc:.2f}"
                rule = self.rule("length_predicts_label")
                yield Finding(rule, total, total, detail=detail, numbers={"auc": auc})

    def numbers(self) -> dict[str, Measured]:
        """Return how often the longer response is preferred (equal lengths as ½), and by how much it is longer."""
        gaps = np.array(self.gaps, np.float64)
        units = np.frombuffer(bytes(self._prompts), "S16")
        longer = np.where(gaps > 0, 1.0, np.where(gaps < 0, 0.0, 0.5))
        return {
            "longer": Measured("the longer response is preferred, equal lengths as ½", longer, units, percent=True),
            "gap": Measured("length of the preferred response minus that of the other", gaps, units),
        }


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


CHECKS = (LengthBias, Sizes)
