"""The page of a check: findings, distributions of lengths, and the worst rows in a table that can be sorted."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from tiltlm.data.quality.rules import CODES, Finding
from tiltlm.report.data.check_report import CheckReport, sentences_of, verdict_of_check
from tiltlm.report.numbers import share
from tiltlm.report.page import script, template_environment, write
from tiltlm.report.plots import HALF
from tiltlm.report.sections import Detail, Remark, SectionView
from tiltlm.report.svg import FIRST, MUTED, SECOND, THIRD, figure, inline, styled
from tiltlm.report.tables import Cell, Table, TableRow

BINS = 40
FAR = 0.995
"""Share of the values that a histogram shows; the rest is beyond its right end, or its two ends."""
COLOURS = {"chosen": FIRST, "rejected": SECOND, "desirable": FIRST, "undesirable": SECOND, "response": THIRD}


def histogram(values: NDArray[np.float64], weights: NDArray[np.float64], edges: NDArray[np.float64]) -> list[float]:
    """Return the share of the values in each bin; values beyond the ends count in the first or the last bin."""
    inside = np.clip(values, edges[0], edges[-1])
    counts, _ = np.histogram(inside, edges, weights=weights)
    return [float(count) for count in counts / weights.sum()]


def lengths_figure(lengths: Mapping[str, Counter[int]], unit: str) -> Markup:
    """Draw the distribution of lengths of each part."""
    arrays = {
        name: (np.array(list(counts), np.float64), np.array(list(counts.values()), np.float64))
        for name, counts in lengths.items()
    }
    top = max(_quantile(values, weights, FAR) for values, weights in arrays.values())
    edges = np.linspace(0, max(top, 1), BINS + 1)
    with styled():
        made = figure(HALF, 2.9)
        axes = made.subplots()
        for name, (values, weights) in arrays.items():
            axes.stairs(histogram(values, weights, edges), edges, color=COLOURS[name], label=name, linewidth=1.6)
        axes.set_xlabel(f"length, {unit}")
        axes.set_ylabel("share of responses")
        axes.set_title("Lengths of responses")
        axes.legend()
        return inline(made, "lengths", "Distribution of the lengths of responses")


def gaps_figure(gaps: Mapping[int, float], unit: str) -> Markup:
    """Draw the distribution of length gaps, with a line where both responses are equally long."""
    values, weights = np.array(list(gaps), np.float64), np.array(list(gaps.values()))
    far = max(_quantile(np.abs(values), weights, FAR), 1.0)
    edges = np.linspace(-far, far, BINS + 1)
    with styled():
        made = figure(HALF, 2.9)
        axes = made.subplots()
        axes.stairs(histogram(values, weights, edges), edges, color=FIRST, fill=True, alpha=0.7)
        axes.axvline(0, color=MUTED, linewidth=1, linestyle=(0, (3, 3)))
        axes.axvline(float(np.average(values, weights=weights)), color=SECOND, linewidth=1.4, label="mean")
        axes.set_xlabel(f"preferred minus other, {unit}")
        axes.set_ylabel("share of comparisons")
        axes.set_title("Length gaps")
        axes.legend()
        return inline(made, "gaps", "Distribution of the difference of lengths of compared responses")


def _quantile(values: NDArray[np.float64], weights: NDArray[np.float64], at: float) -> float:
    order = np.argsort(values)
    counts = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(counts, at * counts[-1])])


def findings_table(findings: Sequence[Finding]) -> Table:
    """Return one row for each finding."""
    rows = tuple(
        TableRow(
            finding.rule.key,
            f"{finding.rule.code} · {finding.rule.cause}",
            (Cell(finding.rule.level), Cell(f"{finding.count:,}", finding.rule.unit), Cell(share(finding.rate))),
            f"{finding.detail}. {finding.rule.fix}" if finding.detail else finding.rule.fix,
            finding.examples[0] if finding.examples else "",
        )
        for finding in findings
    )
    return Table(("level", "count", "share"), rows, "finding")


def examples_of(findings: Sequence[Finding]) -> list[Detail]:
    """Return the first rows of each finding, folded."""
    return [
        Detail(f"{finding.rule.code} {finding.rule.key}: first rows", items=finding.examples)
        for finding in findings
        if len(finding.examples) > 1
    ]


def numbers_table(report: CheckReport) -> Table:
    """Return one row for each number."""
    rows = tuple(TableRow(n.key, n.name, (Cell(n.text),), n.meaning) for n in report.numbers)
    return Table(("value",), rows)


def sections_of(report: CheckReport) -> list[SectionView]:
    """Return the sections of the page."""
    absent = None if report.findings else Remark("nothing_found", "No check found anything.")
    found = [findings_table(report.findings)] if report.findings else []
    lead = "Errors first. An error is a row that training leaves out, or that cannot mean what it says."
    views = [SectionView("findings", "Findings", absent, lead, found, details=examples_of(report.findings))]
    figures = [lengths_figure(report.lengths, report.unit)] if report.lengths else []
    if len(report.gaps):
        figures.append(gaps_figure(report.gaps, report.unit))
    if report.numbers:
        lead = "Small numbers are 95 % intervals, by resampling of the prompts."
        views.append(SectionView("numbers", "Lengths and style", None, lead, [numbers_table(report)], figures))
    return views


def render_check(report: CheckReport) -> str:
    """Return the page as HTML."""
    word, colour = verdict_of_check(report)
    source, digest = script("sort.js")
    return (
        template_environment()
        .get_template("check.html")
        .render(
            title=f"Check of {report.sources}",
            facts={"Rows": f"{report.num_rows:,}", "Shape": report.shape or "unknown", "Lengths in": report.unit},
            word=word,
            colour=colour,
            sentences=sentences_of(report),
            cautions=[Remark(str(note.code), str(note)) for note in report.notes],
            sections=sections_of(report),
            worst=report.worst,
            codes=CODES,
            script_source=source,
            script_digest=digest,
        )
    )


def write_check_page(path: Path, report: CheckReport) -> None:
    """Write the page.

    Raises:
        RunError: The file cannot be written.
    """
    write(path, render_check(report))
