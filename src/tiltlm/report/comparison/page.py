"""Runs side by side on one page: the settings that were varied, the numbers at each point, and which point is best."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from tiltlm.core import ConfigError
from tiltlm.diagnostics import Interval
from tiltlm.report import plots
from tiltlm.report.comparison.points import ComparedRun, Point, accuracy_difference, points_of
from tiltlm.report.numbers import with_bounds
from tiltlm.report.page import as_json, script, template_environment, write
from tiltlm.report.sections import Remark
from tiltlm.report.tables import Cell, cell
from tiltlm.report.verdict import verdict_of

PAGE, TWIN = "comparison.html", "comparison.json"
SCHEMA = "tiltlm.comparison/1"


@dataclass(frozen=True)
class Measure:
    """A number that runs are compared by."""

    key: str
    title: str
    percent: bool = False
    signed: bool = False
    reference: float | None = None
    """Value of a random guess or of the untrained policy, drawn as a dashed line."""
    higher_is_better: bool | None = None
    """None means that neither is better in itself."""


MEASURES = (
    Measure("gold_reward", "gold reward", higher_is_better=True),
    Measure("share_attained", "share of the attainable gain", percent=True, reference=1.0),
    Measure("win_rate", "win rate against untrained", percent=True, reference=0.5),
    Measure("nll", "held-out nll, nats per token", higher_is_better=False),
    Measure("accuracy", "held-out ranking accuracy", percent=True, reference=0.5, higher_is_better=True),
    Measure("margin", "held-out margin", reference=0.0),
    Measure("label_loss", "held-out label loss, nats per comparison", higher_is_better=False),
    Measure("kl", "KL, nats per response", reference=0.0),
    Measure("better_shift", "change of better responses, nats per token", signed=True, reference=0.0),
    Measure("length", "tokens per response"),
)
"""Measures in the order of the table. The first that all runs have and that can be better decides the best run."""

PANELS = ("gold_reward", "nll", "accuracy", "margin", "kl")


@dataclass(frozen=True)
class Headline:
    """The best point of a comparison."""

    sentence: str
    best: str | None = None
    """Name of the best point; None if no measure decides."""
    measure: str | None = None
    """Key of the measure that decides."""
    within_reach: tuple[str, ...] = ()
    """Other points that may be as good: see `_may_be_as_good`."""


def headline(runs: Sequence[ComparedRun]) -> Headline:
    """Return which point is best, by which measure, and which other points may be as good."""
    points = [point for point in points_of(runs) if point.numbers]
    deciding = [m for m in MEASURES if m.higher_is_better is not None]
    by = next((m for m in deciding if points and all(m.key in point.numbers for point in points)), None)
    if by is None:
        return Headline("No held-out number was measured in all of these runs, so none of them can be called the best.")
    sign = 1 if by.higher_is_better else -1
    best = max(points, key=lambda point: sign * point.numbers[by.key].estimate)
    others = [point for point in points if point is not best]
    within_reach = tuple(point.name for point in others if _may_be_as_good(point, best, by, sign))
    sentence = f"Best by {by.title}: {best.name} with {with_bounds(best.numbers[by.key], percent=by.percent)}."
    if others:
        sentence += " " + _of_the_others(within_reach, len(others))
        sentence += " The best of several results is usually an overestimate."
        if all(len(point.runs) == 1 for point in points):
            sentence += " Each was trained with one seed; training.seed=0,1,2 shows how much the seed changes."
    return Headline(sentence, best.name, by.key, within_reach)


def _of_the_others(within_reach: Sequence[str], num_others: int) -> str:
    if not within_reach:
        return "The other one is clearly worse." if num_others == 1 else "All others are clearly worse."
    if num_others == 1:
        return "The other one may be as good."
    if len(within_reach) == num_others:
        return "All others may be as good."
    return f"Of the {num_others} others, these may be as good: {', '.join(within_reach)}."


def _may_be_as_good(point: Point, best: Point, by: "Measure", sign: int) -> bool:
    """Return whether a point may be as good as the best one.

    Over prompts: the paired difference does not exclude 0, or, where prompts cannot be paired, the interval of the
    point reaches the estimate of the best one. Over seeds, if both have several: the interval of the point reaches it.
    """
    difference = accuracy_difference(best, point) if by.key == "accuracy" else None
    reaches = not sign * (best.numbers[by.key].estimate - _nearest(point.numbers[by.key], sign)) > 0
    if difference is None:
        return reaches
    several_seeds = len(point.finished) > 1 and len(best.finished) > 1
    return not difference.low > 0 or (several_seeds and reaches)


def _nearest(interval: Interval, sign: int) -> float:
    """Return the better end of an interval."""
    return interval.high if sign > 0 else interval.low


@dataclass(frozen=True)
class Row:
    """One row of a table of points or runs."""

    name: str
    href: str
    knobs: Mapping[str, Any]
    word: str
    """The verdict of a run, or how many seeds a point has."""
    note: str
    """The error of a failed run."""
    cells: Sequence[tuple[float | None, Cell]]
    """Estimate and text of each measure, and of the difference to the best point where that is shown."""


def render_comparison(
    title: str, runs: Sequence[ComparedRun], first: Headline, facts: Mapping[str, str], notes: Sequence[str]
) -> str:
    """Return the page of a comparison as HTML."""
    points = points_of(runs)
    measures = [m for m in MEASURES if any(m.key in run.numbers for run in runs)]
    best = next((point for point in points if point.name == first.best), None)
    differences = [None if best is None or point is best else accuracy_difference(point, best) for point in points]
    source, digest = script("sort.js")
    return (
        template_environment()
        .get_template("comparison.html")
        .render(
            title=title,
            facts=facts,
            notes=notes,
            headline=first,
            num_runs=len(runs),
            knobs=list(dict.fromkeys(knob for point in points for knob in point.knobs)),
            measures=measures,
            has_differences=any(differences),
            points=[_point_row(point, measures, *pair) for point, *pair in zip(points, differences, strict=True)],
            runs=[_run_row(run, measures) for run in runs] if len(points) < len(runs) else [],
            cautions=_cautions_by_key(runs),
            figures=_figures(points, measures, first.measure),
            twin=TWIN,
            script=source,
            script_digest=digest,
        )
    )


def _cautions_by_key(runs: Sequence[ComparedRun]) -> dict[str, list[tuple[str, Remark]]]:
    """Return each kind of caution with the runs that have it, so that many runs do not repeat one list."""
    found: dict[str, list[tuple[str, Remark]]] = {}
    for run in runs:
        for caution in verdict_of(run.report).cautions if run.report is not None else ():
            found.setdefault(caution.key, []).append((run.name, caution))
    return found


def _cells(found: Mapping[str, Interval], measures: Sequence[Measure]) -> list[tuple[float | None, Cell]]:
    return [
        (found[m.key].estimate, cell(found[m.key], percent=m.percent, signed=m.signed))
        if m.key in found
        else (None, cell(None))
        for m in measures
    ]


def _run_row(run: ComparedRun, measures: Sequence[Measure]) -> Row:
    word = "failed" if run.report is None else verdict_of(run.report).word
    return Row(run.name, quote(run.link), run.knobs, word, run.error, _cells(run.numbers, measures))


def _point_row(point: Point, measures: Sequence[Measure], difference: Interval | None) -> Row:
    last = (difference.estimate if difference else None, cell(difference, percent=True, signed=True))
    cells = [*_cells(point.numbers, measures), last]
    if len(point.runs) == 1:
        return replace(_run_row(point.runs[0], measures), knobs=point.knobs, cells=cells)
    failed = len(point.runs) - len(point.finished)
    word = f"{len(point.runs)} seeds" + (f", {failed} failed" if failed else "")
    return Row(point.name, "", point.knobs, word, "", cells)


def _figures(points: Sequence[Point], measures: Sequence[Measure], deciding: str | None) -> list[Markup]:
    """Draw up to three numbers of the points that have all of them, and the deciding one over the KL."""
    shown = [m for m in measures if m.key in PANELS][:3]
    drawn = [point for point in points if shown and all(m.key in point.numbers for m in shown)]
    if not drawn:
        return []
    panels = [
        (m.title, [plots.Whisker(p.name, p.numbers[m.key]) for p in drawn], m.reference, m.percent) for m in shown
    ]
    figures = [plots.comparison_figure(panels)]
    by = next((m for m in measures if m.key == deciding), None)
    placed = [point for point in drawn if by is not None and "kl" in point.numbers and by.key in point.numbers]
    if by is not None and len(placed) > 1:
        marks = [(point.name, point.numbers["kl"], point.numbers[by.key]) for point in placed]
        figures.append(plots.over_kl_figure(marks, by.title, percent=by.percent))
    return figures


def write_comparison(
    folder: Path | str,
    runs: Sequence[ComparedRun],
    *,
    title: str = "Comparison of runs",
    facts: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """Write comparison.html and comparison.json.

    Args:
        folder: Folder of the two files. Links to the runs are relative to it.
        runs: The runs, in the order of the table.
        title: Title of the page.
        facts: Facts that all runs share, as label → text.
        notes: Notes for the reader.

    Returns:
        The path of comparison.html.

    Raises:
        ConfigError: there are no runs, or two runs have the same name.
        RunError: a file cannot be written.
    """
    names = [run.name for run in runs]
    if not runs:
        raise ConfigError("there are no runs to compare; give at least one", code="empty", key="runs")
    if len(set(names)) < len(names):
        raise ConfigError(
            f"two of the runs {names} have the same name; give each run its own", code="duplicate", key="runs"
        )
    folder, first = Path(folder), headline(runs)
    content = {
        "schema": SCHEMA,
        "title": title,
        "facts": facts or {},
        "notes": notes,
        "headline": first.sentence,
        "best": first.best,
        "decided_by": first.measure,
        "within_reach": first.within_reach,
        "points": [
            {"name": point.name, "knobs": point.knobs, "runs": [r.name for r in point.runs], "numbers": point.numbers}
            for point in points_of(runs)
        ],
        "runs": [
            {
                "name": run.name,
                "knobs": run.knobs,
                "link": run.link,
                "error": run.error,
                "verdict": verdict_of(run.report) if run.report is not None else None,
                "numbers": run.numbers,
            }
            for run in runs
        ],
    }
    write(folder / TWIN, as_json(content))
    write(folder / PAGE, render_comparison(title, runs, first, facts or {}, notes))
    return folder / PAGE
