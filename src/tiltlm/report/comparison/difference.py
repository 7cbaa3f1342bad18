"""The page of two runs: what differs, their results with intervals, and both curves of each metric on the same axes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from tiltlm.diagnostics import Interval
from tiltlm.report.page import template_environment
from tiltlm.report.plots import HALF, STEPS
from tiltlm.report.sections import SectionView
from tiltlm.report.series import Series
from tiltlm.report.svg import FIRST, SECOND, figure, inline, styled
from tiltlm.report.tables import Cell, Table, TableRow, cell

ResultRow = tuple[str, Interval | None, Interval | None, Interval | None, bool]
"""Title, A, B, B − A paired by prompt, and whether the numbers are shares."""


@dataclass(frozen=True)
class Overlay:
    """A metric of both runs."""

    name: str
    unit: str
    """What the horizontal axis counts."""
    a: Series | None
    b: Series | None


def overlay_figure(overlay: Overlay, names: tuple[str, str]) -> Markup:
    """Draw a metric of both runs on the same axes: batches as thin lines, held-out data with dots."""
    with styled():
        made = figure(HALF, 2.7)
        axes = made.subplots()
        for series, colour, label in zip((overlay.a, overlay.b), (FIRST, SECOND), names, strict=True):
            if series is not None:
                few = series.part == "held_out"
                axes.plot(
                    series.steps,
                    series.values,
                    color=colour,
                    label=label if len(label) <= 28 else f"{label[:27]}…",
                    linewidth=1.8 if few else 1.2,
                    marker="o" if few else "",
                    markersize=4,
                    alpha=0.85,
                )
        axes.set_title(overlay.name, pad=22)
        axes.set_xlabel(overlay.unit)
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=STEPS, integer=True))
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.99), ncols=2, borderpad=0)
        return inline(
            made, f"overlay-{re.sub(r'[^a-z]+', '-', overlay.name)}", f"{overlay.name} of {' and '.join(names)}"
        )


def render_difference(
    names: tuple[str, str],
    sentences: Sequence[str],
    results: Sequence[ResultRow],
    changes: Mapping[str, Sequence[tuple[str, str, str]]],
    overlays: Sequence[Overlay],
) -> str:
    """Return the page of two runs as HTML.

    Args:
        names: The runs.
        sentences: The answers to what one asks first.
        results: Their numbers.
        changes: Title of a list → key, value in A, value in B.
        overlays: The curves.
    """
    sections = []
    if results:
        rows = tuple(
            TableRow(
                title,
                title,
                (cell(a, percent=share), cell(b, percent=share), cell(paired, percent=share, signed=True)),
            )
            for title, a, b, paired, share in results
        )
        lead = "95 % intervals, by bootstrap over prompts. The last column is paired by prompt, where that is possible."
        sections.append(SectionView("results", "Results", None, lead, [Table((*names, "B − A"), rows)]))
    if overlays:
        drawn = [overlay_figure(overlay, names) for overlay in overlays]
        lead = "Training batches as thin lines; held-out data and rounds with dots."
        sections.append(SectionView("curves", "Curves", None, lead, figures=drawn))
    for title, entries in changes.items():
        if entries:
            listed = tuple(TableRow(key, key, (Cell(a), Cell(b))) for key, a, b in entries)
            sections.append(SectionView(title.lower().replace(" ", "-"), title, None, "", [Table(names, listed)]))
    return (
        template_environment()
        .get_template("study.html")
        .render(
            kicker="two runs",
            title=" and ".join(names),
            facts={},
            question="What differs?",
            word="",
            colour="",
            sentences=sentences,
            cautions=[],
            sections=sections,
            twin="",
        )
    )
