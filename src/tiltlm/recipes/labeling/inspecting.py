"""The numbers of a project in a terminal or a notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from tiltlm.core.notes import visible
from tiltlm.labeling.monitor.annotators import AnnotatorNumbers
from tiltlm.labeling.monitor.facts import read_facts
from tiltlm.labeling.monitor.status import Status, Verdict, measure_status
from tiltlm.labeling.store.database import reading
from tiltlm.labeling.store.projects import open_project
from tiltlm.report.numbers import format_number, share, with_bounds

if TYPE_CHECKING:
    import pandas as pd

    from tiltlm.estimates.intervals import Interval

MAX_NAME = 24
WIDTH = 100
"""Characters of a line, where it can be broken."""
BAR = 40
"""Characters of the bar of progress."""


@dataclass(frozen=True, repr=False)
class Inspected:
    """A project at one moment."""

    status: Status

    def as_dict(self) -> dict[str, Any]:
        """Return all numbers as plain values for JSON."""
        return self.status.as_dict()

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per annotator; intervals as their estimates."""
        import pandas as pd

        def plain(value: Any) -> Any:
            return value.estimate if hasattr(value, "estimate") else value

        return pd.DataFrame(
            [{name: plain(value) for name, value in vars(one).items()} for one in self.status.annotators]
        )

    def __repr__(self) -> str:
        coverage = self.status.coverage
        return f"Inspected: {coverage.num_done} votes on {coverage.num_pairs} pairs; {self.status.advice()}"

    def summary(self) -> str:
        """Return what the command line prints."""
        status = self.status
        parts = [_coverage_lines(status), *([status.plan.lines()] if status.plan else [])]
        parts += [_verdict_lines(one) for one in status.verdicts]
        parts += [_agreement_lines(status), _annotator_lines(status.annotators)]
        if status.skips:
            parts.append(["skips: " + ", ".join(f"{reason} {num:,}" for reason, num in status.skips.items())])
        if len(status.by_guidelines) > 1:
            versions = (f"version {version} {num:,}" for version, num in status.by_guidelines.items())
            parts.append(["votes by guidelines: " + ", ".join(versions)])
        return visible("\n\n".join("\n".join(part) for part in parts if part))


def inspect(database: str) -> Inspected:
    """Return the numbers of a project.

    Args:
        database: The project.

    Raises:
        ConfigError: The database cannot be used.
        DataError: There is no project in it.
    """
    with open_project(database) as project:
        with reading(project.engine) as connection:
            facts = read_facts(connection, project.settings)
        return Inspected(measure_status(facts))


def _coverage_lines(status: Status) -> list[str]:
    coverage = status.coverage
    filled = round(BAR * coverage.share)
    per_pair = ", ".join(f"{pairs:,} with {num}" for num, pairs in coverage.per_pair.items())
    return [
        f"{coverage.num_done:,} votes on {coverage.num_pairs:,} pairs, about {round(coverage.num_expected):,} to come",
        "",
        f"{'█' * filled}{'░' * (BAR - filled)} {share(coverage.share)}",
        f"pairs by number of votes: {per_pair or 'none'}; {coverage.num_complete:,} complete, "
        f"{coverage.num_adjudicated:,} adjudicated",
        *(line for text in (status.advice(), *status.notes) for line in _wrapped(f"→ {text}")),
    ]


def _wrapped(text: str) -> list[str]:
    return wrap(text, WIDTH, subsequent_indent="  ", break_long_words=False)


def _verdict_lines(verdict: Verdict) -> list[str]:
    lines = _wrapped(verdict.sentence())
    if verdict.is_slice:
        text = (
            f"only the random slice counts ({verdict.num_pairs_judged:,} pairs): the other pairs were chosen, and are "
            "no fair sample"
        )
        lines += _wrapped(f"  {text}")
    rates = [rate for rate in verdict.without.values() if rate is not None]
    if rates:
        estimates = [rate.estimate for rate in rates]
        lines.append(f"  without any one annotator: {share(min(estimates))} to {share(max(estimates))}")
    if verdict.depends_on:
        lines.append(f"  another verdict without {' or '.join(verdict.depends_on)}")
    return lines


def _agreement_lines(status: Status) -> list[str]:
    found = status.agreement
    if found is None:
        return []
    alpha = with_bounds(found.alpha) if found.alpha else "is undefined" if found.num_shared else "cannot be measured"
    rows = [
        ("Krippendorff's α", alpha),
        ("equal votes", _percent(found.raw)),
        ("votes for the left side", _percent(found.left)),
        ("equal when repeated", _percent(found.consistency)),
    ]
    width = max(len(name) for name, _ in rows)
    return [*(f"{name.ljust(width)}  {text}" for name, text in rows if text), *(f"- {note}" for note in found.notes)]


def _percent(interval: Interval | None) -> str:
    return "" if interval is None else with_bounds(interval, percent=True)


def _annotator_lines(annotators: Sequence[AnnotatorNumbers]) -> list[str]:
    """Return two tables with one line per annotator, what they did and how reliably, and what stands out."""
    if not annotators:
        return ["nobody is invited yet"]
    names = [one.name if len(one.name) <= MAX_NAME else f"{one.name[: MAX_NAME - 1]}…" for one in annotators]
    work = {
        "annotator": names,
        "votes": [f"{one.num_votes:,}" for one in annotators],
        "an hour": ["" if one.votes_per_hour is None else f"{one.votes_per_hour:.0f}" for one in annotators],
        "median s": [format_number(one.median_seconds, 1) for one in annotators],
        "skips": [f"{one.num_skips:,}" for one in annotators],
        "very fast": [f"{one.num_fast:,} of {one.num_timed:,}" if one.num_fast else "" for one in annotators],
    }
    shares = {
        "annotator": names,
        "right on gold": [_percent(one.gold) for one in annotators],
        "calibration": [_percent(one.calibration) for one in annotators],
        "as the others": [_percent(one.others) for one in annotators],
        "repeats equal": [_percent(one.consistency) for one in annotators],
        "left side": [_percent(one.left) for one in annotators],
    }
    flags = [f"- {one.name}: {flag}" for one in annotators for flag in one.flags]
    return [*_table(work), "", *_table(shares), *([""] if flags else []), *flags]


def _table(columns: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a table as lines, without columns that are empty."""
    cells = {head: [head, *(cell or "–" for cell in column)] for head, column in columns.items() if any(column)}
    padded = [[cell.ljust(max(map(len, column))) for cell in column] for column in cells.values()]
    return ["  ".join(row).rstrip() for row in zip(*padded, strict=True)]
