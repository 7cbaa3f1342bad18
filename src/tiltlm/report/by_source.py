"""The table of the held-out rows of each source: a mean over sources can hide that one of them got worse."""

from collections.abc import Callable, Iterator

from tiltlm.evaluation import Change, HeldOut
from tiltlm.evaluation.held_out import SourceChange
from tiltlm.report.numbers import format_number
from tiltlm.report.tables import NONE, Cell, Table, TableRow, cell

Reads = Callable[[SourceChange], Change | None]


def source_tables(held_out: HeldOut | None) -> Iterator[Table]:
    """Yield the table of sources if there are several: numbers before and after training, and the difference."""
    sources = {} if held_out is None else held_out.by_source
    numbers: list[tuple[str, Reads, bool]] = [
        ("accuracy", lambda source: source.accuracy, True),
        ("margin", lambda source: source.margin, False),
        ("nll", lambda source: source.nll, False),
    ]
    shown = [
        (name, reads, percent)
        for name, reads, percent in numbers
        if any(reads(source) is not None for source in sources.values())
    ]
    if not shown:
        return
    columns = ("rows", "prompts", *(f"{name}{when}" for name, _, _ in shown for when in (", trained", ", difference")))
    rows = []
    for name, source in sources.items():
        cells = [Cell(format_number(count, 0)) for count in (source.num_examples, source.num_prompts)]
        for _, reads, percent in shown:
            change = reads(source)
            if change is None:
                cells += [NONE, NONE]
            else:
                cells += [cell(change.after, percent=percent), cell(change.difference, percent=percent, signed=True)]
        rows.append(TableRow(f"source {name}", name, tuple(cells)))
    yield Table(columns, tuple(rows), row_heading="source", title="By source")


def sources_that_fell(held_out: HeldOut) -> list[str]:
    """Return the sources whose rows are ranked worse after training, with the whole interval below 0."""
    found = ((name, source.accuracy) for name, source in held_out.by_source.items())
    return [name for name, accuracy in found if accuracy is not None and accuracy.difference.high < 0]
