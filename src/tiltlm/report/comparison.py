"""Runs side by side on one page: the settings that were varied, the numbers of each run, and which run is best."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from tiltlm.core import ConfigError
from tiltlm.diagnostics import Interval
from tiltlm.report import plots
from tiltlm.report.numbers import with_bounds
from tiltlm.report.page import as_json, script, template_environment, write
from tiltlm.report.run_report import RunReport
from tiltlm.report.tables import cell
from tiltlm.report.verdict import verdict_of

PAGE, TWIN = "comparison.html", "comparison.json"
SCHEMA = "tiltlm.comparison/1"


@dataclass(frozen=True)
class ComparedRun:
    """One run of a comparison."""

    name: str
    """Short name, different from those of the other runs, such as `objective.beta=0.2`."""
    knobs: Mapping[str, Any]
    """The settings that were varied, with the values of this run."""
    report: RunReport | None
    """None if the run failed."""
    link: str = ""
    """Path of the run's page, relative to the folder of the comparison."""
    error: str = ""
    """The error, if the run failed."""


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


def numbers(report: RunReport) -> dict[str, Interval]:
    """Return the numbers of a run, by the keys of `MEASURES`."""
    found: dict[str, Interval] = {}
    if report.gold is not None:
        attainment = report.gold.attainment
        found |= {"gold_reward": attainment.policy, "share_attained": attainment.share, "kl": attainment.kl}
        found["win_rate"] = report.gold.win_rate
    if report.held_out is not None:
        if report.held_out.nll is not None:
            found["nll"] = report.held_out.nll.after
        if (contrast := report.held_out.contrast) is not None:
            found |= {"accuracy": contrast.accuracy.after, "margin": contrast.margin.after}
            if contrast.label_loss is not None:
                found["label_loss"] = contrast.label_loss.after
            if contrast.better is not None:
                found["better_shift"] = contrast.better.difference
    if report.samples is not None:
        found["length"] = report.samples.after.length
        if report.samples.after.kl is not None:
            found.setdefault("kl", report.samples.after.kl)
    return found


@dataclass(frozen=True)
class Headline:
    """The best run of a comparison."""

    sentence: str
    best: str | None = None
    """Name of the best run; None if no measure decides."""
    measure: str | None = None
    """Key of the measure that decides."""
    within_reach: tuple[str, ...] = ()
    """Other runs whose intervals reach the estimate of the best run."""


def headline(runs: Sequence[ComparedRun]) -> Headline:
    """Return which run is best, by which measure, and which other runs may be as good."""
    measured = {run.name: numbers(run.report) for run in runs if run.report is not None}
    deciding = [m for m in MEASURES if m.higher_is_better is not None]
    by = next((m for m in deciding if measured and all(m.key in found for found in measured.values())), None)
    if by is None:
        return Headline("No held-out number was measured in all of these runs, so none of them can be called the best.")
    sign = 1 if by.higher_is_better else -1
    name = max(measured, key=lambda n: sign * measured[n][by.key].estimate)
    best = measured[name][by.key]
    within_reach = tuple(
        n
        for n, found in measured.items()
        if n != name and not sign * (best.estimate - _nearest(found[by.key], sign)) > 0
    )
    sentence = f"Best by {by.title}: {name} with {with_bounds(best, percent=by.percent)}."
    others = len(measured) - 1
    if within_reach:
        sentence += f" The intervals of {len(within_reach)} of the {others} other runs reach this value, so these runs "
        sentence += "may be as good."
    elif others:
        sentence += " The interval of no other run reaches this value."
    if others:
        sentence += " The best of several results is usually an overestimate."
    return Headline(sentence, name, by.key, within_reach)


def _nearest(interval: Interval, sign: int) -> float:
    """Return the better end of an interval."""
    return interval.high if sign > 0 else interval.low


def render_comparison(title: str, runs: Sequence[ComparedRun], facts: Mapping[str, str], notes: Sequence[str]) -> str:
    """Return the page of a comparison as HTML."""
    measured = [numbers(run.report) if run.report is not None else {} for run in runs]
    measures = [m for m in MEASURES if any(m.key in found for found in measured)]
    source, digest = script("sort.js")
    return (
        template_environment()
        .get_template("comparison.html")
        .render(
            title=title,
            facts=facts,
            notes=notes,
            headline=headline(runs),
            knobs=list(dict.fromkeys(knob for run in runs for knob in run.knobs)),
            measures=measures,
            rows=[
                {
                    "run": run,
                    "href": quote(run.link),
                    "verdict": verdict_of(run.report) if run.report is not None else None,
                    "cells": [
                        (found[m.key].estimate, cell(found[m.key], percent=m.percent, signed=m.signed))
                        if m.key in found
                        else (None, cell(None))
                        for m in measures
                    ],
                }
                for run, found in zip(runs, measured, strict=True)
            ],
            figure=_figure(runs, measured, measures),
            twin=TWIN,
            script=source,
            script_digest=digest,
        )
    )


def _figure(
    runs: Sequence[ComparedRun], measured: Sequence[Mapping[str, Interval]], measures: Sequence[Measure]
) -> Markup | None:
    """Draw up to three numbers of the runs that have all of them, one panel per number."""
    shown = [m for m in measures if m.key in PANELS][:3]
    rows = [(run, found) for run, found in zip(runs, measured, strict=True) if all(m.key in found for m in shown)]
    if not shown or not rows:
        return None
    panels = [
        (m.title, [plots.Whisker(run.name, found[m.key]) for run, found in rows], m.reference, m.percent) for m in shown
    ]
    return plots.comparison_figure(panels)


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
        "runs": [
            {
                "name": run.name,
                "knobs": run.knobs,
                "link": run.link,
                "error": run.error,
                "verdict": verdict_of(run.report) if run.report is not None else None,
                "numbers": numbers(run.report) if run.report is not None else {},
            }
            for run in runs
        ],
    }
    write(folder / TWIN, as_json(content))
    write(folder / PAGE, render_comparison(title, runs, facts or {}, notes))
    return folder / PAGE
