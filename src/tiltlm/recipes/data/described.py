"""What is in some data, as a notebook and a terminal look at it."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiltlm.data.stats import DataStatistics
from tiltlm.data.stats.needed import LearningCurve
from tiltlm.report import to_plain
from tiltlm.report.data.stats import (
    bias_table,
    content_of,
    counts_table,
    lengths_table,
    rows_table,
    sentences_of,
    unit_of,
    win_rate_rows,
)
from tiltlm.report.numbers import with_bounds
from tiltlm.report.tables import Table

if TYPE_CHECKING:
    import pandas as pd

MOST_SOURCES = 10
"""Sources that the summary names."""


@dataclass(frozen=True, repr=False)
class Described:
    """Statistics of some data."""

    name: str
    statistics: DataStatistics
    curve: LearningCurve | None = None
    """What more labels would bring; None if it was not asked for."""
    page: Path | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return all numbers as plain values for JSON."""
        found: dict[str, Any] = to_plain(content_of(self.name, self.statistics, self.curve))
        return found

    def to_pandas(self) -> pd.DataFrame:
        """Return the lengths as a table: one row for each unit and role."""
        import pandas as pd

        lengths = self.as_dict()["lengths"]
        rows = [
            {"unit": unit, "role": role, **numbers}
            for unit, by_role in lengths.items()
            for role, numbers in by_role.items()
        ]
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        return f"Described: {' '.join(sentences_of(self.statistics))}"

    def _repr_html_(self) -> str:
        """Return the lengths as a table for a notebook."""
        return f"<p>{escape(repr(self))}</p>{self.to_pandas().to_html(index=False)}"

    def summary(self) -> str:
        """Return what the command line prints."""
        found = self.statistics
        head, *rest = sentences_of(found)
        lines = [head, "", *rest, *([""] if rest else ()), *_lines(rows_table(found))]
        unit = unit_of(found)
        for name, lengths in found.lengths.items():
            lines += ["", *_lines(lengths_table(lengths.by_role, name))]
            if name == unit and lengths.bias.num_pairs:
                lines += ["", *_lines(bias_table(lengths.bias, name))]
        if len(found.sources) > 1:
            top = dict(found.sources.most_common(MOST_SOURCES))
            lines += ["", *_lines(counts_table(top, found.num_rows, "source"))]
        if found.languages:
            top = dict(found.languages.most_common(MOST_SOURCES))
            lines += ["", *_lines(counts_table(top, found.languages.total(), "language of the prompt"))]
        if self.curve is not None:
            lines += ["", *_needed(self.curve)]
        if self.page is not None:
            lines += ["", f"page  {self.page}"]
        return "\n".join(lines)


def _lines(table: Table) -> list[str]:
    """Return a table as lines of text."""
    rows = [[row.name, *(f"{c.value} ({c.note})" if c.note else c.value for c in row.cells)] for row in table.rows]
    head = [table.title or table.row_heading, *table.columns]
    shown = [head, *rows] if any(head) else rows
    widths = [max(len(row[k]) for row in shown) for k in range(len(head))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in shown]


def _needed(curve: LearningCurve) -> list[str]:
    """Return what a pilot says about more labels."""
    lines = [
        f"How many labels are needed? Held-out accuracy of a small probe of words and lengths, {curve.num_labels:,} "
        f"labels on {curve.num_prompts:,} prompts:"
    ]
    lines += [f"{m.labels:>9,}  {with_bounds(m.accuracy, percent=True)}" for m in curve.measured]
    for m, gain in zip(curve.projected, curve.gains, strict=True):
        change = with_bounds(gain, percent=True, signed=True)
        lines.append(f"{m.labels:>9,}  {with_bounds(m.accuracy, percent=True)}, continued; gain {change}")
    if curve.reason:
        lines.append(f"not continued: {curve.reason}")
    lines.append("The probe is no language model, and the interval does not count that the power law may be wrong.")
    lines += ["", "Prompts that show a win rate to differ from ½ (95 %, power 80 %, one verdict a prompt):"]
    lines += [f"{row.win_rate:>9.1%}  {row.prompts:,}" for row in win_rate_rows()]
    return lines
