"""Tables of numbers on a page: each row has a name, its meaning in plain words, and its numbers as text."""

from dataclasses import dataclass

from tiltlm.diagnostics import Interval
from tiltlm.evaluation import Change
from tiltlm.report.numbers import bounds, estimate, supported


@dataclass(frozen=True)
class Cell:
    """A number and a note in small print."""

    value: str
    note: str = ""


NONE = Cell("–")
"""The cell of a number that was not measured."""


@dataclass(frozen=True)
class TableRow:
    """One row of a table."""

    key: str
    """Stable name of the row on the page: `data-row`."""
    name: str
    cells: tuple[Cell, ...]
    """One cell per column of the table."""
    meaning: str = ""
    """The meaning of the number in plain words."""
    example: str = ""
    """An example of what was counted."""
    is_total: bool = False


@dataclass(frozen=True)
class Table:
    """A table of a section."""

    columns: tuple[str, ...]
    """Headings of the columns of numbers."""
    rows: tuple[TableRow, ...]
    row_heading: str = ""
    """Heading of the column of names."""
    title: str = ""


BEFORE_AFTER = ("untrained", "trained", "difference")
"""Columns of a table that compares the policy before and after training."""


def cell(
    interval: Interval | None, *, percent: bool = False, signed: bool = False, decimals: int | None = None
) -> Cell:
    """Return an estimate with its interval in small print."""
    if interval is None:
        return NONE
    return Cell(
        estimate(interval, percent=percent, signed=signed, decimals=decimals),
        bounds(interval, percent=percent, signed=signed, decimals=decimals),
    )


def change_row(
    key: str, name: str, meaning: str, change: Change, *, percent: bool = False, before: Cell | None = None
) -> TableRow:
    """Return a row of `BEFORE_AFTER` with the same decimals in all cells.

    Args:
        key: Stable name of the row.
        name: Name on the page.
        meaning: Meaning in plain words.
        change: The numbers.
        percent: Show the numbers as percentages.
        before: Cell to show instead of the measured number before training, where that is known by definition.
    """
    measured = [change.after, change.difference] if before else [change.before, change.after, change.difference]
    decimals = max(supported(interval, percent=percent) for interval in measured)
    cells = (
        before or cell(change.before, percent=percent, decimals=decimals),
        cell(change.after, percent=percent, decimals=decimals),
        cell(change.difference, percent=percent, signed=True, decimals=decimals),
    )
    return TableRow(key, name, cells, meaning)
