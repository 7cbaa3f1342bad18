"""Runs side by side on one page: what was varied, what each came to, and how far the intervals tell them apart."""

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
    """Short and distinct, such as `objective.beta=0.2`."""
    knobs: Mapping[str, Any]
    """What was varied, and this run's values."""
    report: RunReport | None
    """None where the run failed."""
    link: str = ""
    """Path of its page, relative to the comparison's folder."""
    error: str = ""
    """Why it failed."""


@dataclass(frozen=True)
class Measure:
    """A number that runs are compared by."""

    key: str
    title: str
    percent: bool = False
    signed: bool = False
    reference: float | None = None
    """Where a dashed line stands: what a coin, or a policy that has not moved, would have."""
    higher_is_better: bool | None = None
    """None: neither is better in itself."""


MEASURES = (
    Measure("gold_reward", "gold reward", higher_is_better=True),
    Measure("share_attained", "share of the attainable gain", percent=True, reference=1.0),
    Measure("win_rate", "win rate over untrained", percent=True, reference=0.5),
    Measure("nll", "held-out nll, nats per token", higher_is_better=False),
    Measure("accuracy", "held-out ranking accuracy", percent=True, reference=0.5, higher_is_better=True),
    Measure("margin", "held-out margin", reference=0.0),
    Measure("kl", "KL, nats a response", reference=0.0),
    Measure("better_shift", "better responses, nats per token", signed=True, reference=0.0),
    Measure("length", "tokens a response"),
)
"""In the order of the table; the first that all runs have and that can be better decides which run is named first."""

WORDS = {"better": "yes", "worse": "no, it did harm", "unclear": "not clearly", "unmeasured": "not measured"}

PANELS = ("gold_reward", "nll", "accuracy", "margin", "kl")


def numbers(report: RunReport) -> dict[str, Interval]:
    """What a run is compared by, by the keys of `MEASURES`."""
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
            if contrast.better is not None:
                found["better_shift"] = contrast.better.difference
    if report.samples is not None:
        found["length"] = report.samples.after.length
        if report.samples.after.kl is not None:
            found.setdefault("kl", report.samples.after.kl)
    return found


def headline(runs: Sequence[ComparedRun]) -> str:
    """Which run came out first, by what, and how surely."""
    measured = {run.name: numbers(run.report) for run in runs if run.report is not None}
    deciding = [m for m in MEASURES if m.higher_is_better is not None]
    by = next((m for m in deciding if measured and all(m.key in found for found in measured.values())), None)
    if by is None:
        return "There is no held-out number that all of these runs have, so none of them can be called the best."
    sign = 1 if by.higher_is_better else -1
    name = max(measured, key=lambda n: sign * measured[n][by.key].estimate)
    best = measured[name][by.key]
    close = [
        n
        for n, found in measured.items()
        if n != name and not sign * (best.estimate - _nearest(found[by.key], sign)) > 0
    ]
    sentence = f"By {by.title}, {name} comes out first: {with_bounds(best, percent=by.percent)}."
    if len(measured) == 1:
        return sentence
    if close:
        return (
            f"{sentence} The intervals of {len(close)} of the {len(measured) - 1} others reach its estimate, so it "
            "cannot be told from them; and the best of several looks better than it is."
        )
    return (
        f"{sentence} No other run's interval reaches its estimate; still, the best of several looks better than it is."
    )


def _nearest(interval: Interval, sign: int) -> float:
    """The end of an interval on the good side."""
    return interval.high if sign > 0 else interval.low


def render_comparison(title: str, runs: Sequence[ComparedRun], facts: Mapping[str, str], notes: Sequence[str]) -> str:
    """The page of a comparison."""
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
            words=WORDS,
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
    """Up to three numbers of the runs that have them all, one panel each."""
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
        folder: Where to; links of the runs are relative to it.
        runs: In the order of the table.
        title: Of the page.
        facts: What all runs share, as label → text.
        notes: What a reader must be told.

    Returns:
        Where the page is.

    Raises:
        ConfigError: there are no runs, or two of one name.
        RunError: the files cannot be written.
    """
    names = [run.name for run in runs]
    if not runs:
        raise ConfigError("no runs to compare; give at least one", code="empty", key="runs")
    if len(set(names)) < len(names):
        raise ConfigError(f"runs to compare: {names}; give each a name of its own", code="duplicate", key="runs")
    folder = Path(folder)
    content = {
        "schema": SCHEMA,
        "title": title,
        "facts": facts or {},
        "notes": notes,
        "headline": headline(runs),
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
