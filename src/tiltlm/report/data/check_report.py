"""What a check of data found, as one object: printed, written as JSON, and shown as a page."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from tiltlm.core.notes import Note
from tiltlm.data.quality.contents import Style
from tiltlm.data.quality.inspection import Inspection
from tiltlm.data.quality.lengths import LengthBias, Sizes, auc_of_gaps, auc_of_lengths
from tiltlm.data.quality.rules import CODES, LEVELS, Finding, Level, Measured
from tiltlm.diagnostics.intervals import RESAMPLES, Interval, bootstrap_mean
from tiltlm.report.numbers import format_number, share, with_bounds

SCHEMA = "tiltlm.check/1"
DRAWN = 100_000_000
"""Values that the bootstrap of one number may draw: fewer resamples for more rows, at least `FEWEST`."""
FEWEST = 200
MOST_WORST = 200
"""Rows in the table of worst rows."""


class Number(NamedTuple):
    """A number about the data, with its meaning."""

    key: str
    name: str
    value: Interval | float
    percent: bool
    meaning: str

    @property
    def text(self) -> str:
        """The number with its interval."""
        if isinstance(self.value, Interval):
            return with_bounds(self.value, percent=self.percent)
        return share(self.value) if self.percent else format_number(self.value)


class WorstRow(NamedTuple):
    """A row with marks, for the table of worst rows."""

    location: str
    level: Level
    keys: tuple[str, ...]
    """The rules that it breaks, the most serious first."""
    detail: str
    size: int | None
    """Bytes of its text; None: it could not be read."""


@dataclass(frozen=True)
class CheckReport:
    """Everything that a check found."""

    sources: str
    """Names of what was read."""
    shape: str
    """Shape of the data; empty if its columns cannot be read."""
    unit: str
    """Unit of lengths: tokens or characters."""
    num_rows: int
    num_kept: int
    """Rows that training can use."""
    findings: tuple[Finding, ...]
    numbers: tuple[Number, ...] = ()
    lengths: Mapping[str, Counter[int]] = field(default_factory=dict)
    """Lengths by role → how many."""
    gaps: Sequence[int] = ()
    """Length of the preferred response minus that of the other."""
    worst: tuple[WorstRow, ...] = ()
    notes: tuple[Note, ...] = ()

    def count(self, level: Level) -> int:
        """Return how many findings have this level."""
        return sum(finding.rule.level == level for finding in self.findings)

    @property
    def has_errors(self) -> bool:
        """True if a finding is an error."""
        return self.count("error") > 0


def interval_of(measured: Measured, *, seed: int = 0) -> Interval:
    """Return a measured number with its interval, by resampling of the prompts."""
    resamples = min(RESAMPLES, max(FEWEST, DRAWN // len(measured.values)))
    return bootstrap_mean(measured.values, measured.units, seed=seed, resamples=resamples)


def report_of(
    inspection: Inspection, sources: str, shape: str, unit: str, notes: Iterable[Note] = (), *, seed: int = 0
) -> CheckReport:
    """Return what an inspection found as a report.

    Args:
        inspection: All rows, inspected.
        sources: Names of what was read.
        shape: Shape of the data.
        unit: Unit of lengths.
        notes: What the user should know beside findings.
        seed: Seed of the intervals.
    """
    by_kind = {type(check): check for check in inspection.checks}
    bias, style, sizes = by_kind.get(LengthBias), by_kind.get(Style), by_kind.get(Sizes)
    assert isinstance(bias, LengthBias)
    assert isinstance(style, Style)
    assert isinstance(sizes, Sizes)
    return CheckReport(
        sources,
        shape,
        unit,
        inspection.accounting.total,
        inspection.accounting.kept,
        tuple(inspection.findings()),
        tuple(numbers_of(bias, style, unit, seed)),
        {name: counts for name, counts in bias.all_lengths.items() if counts},
        bias.gaps,
        tuple(worst_rows(inspection, sizes)),
        tuple(notes),
    )


def numbers_of(bias: LengthBias, style: Style, unit: str, seed: int = 0) -> Iterable[Number]:
    """Yield the numbers of all data, whether they are findings or not."""
    for name, lengths in bias.all_lengths.items():
        if lengths:
            middle = quantile(lengths, 0.5)
            far = quantile(lengths, 0.999)
            yield Number(f"median_{name}", f"{name}: median length", middle, False, f"in {unit}")
            yield Number(f"p999_{name}", f"{name}: 99.9 % are at most", far, False, f"in {unit}")
    if bias.gaps:
        for key, measured in bias.numbers().items():
            name = {"longer": "longer response preferred", "gap": f"length gap, {unit}"}[key]
            yield Number(key, name, interval_of(measured, seed=seed), measured.percent, measured.meaning)
        auc = auc_of_gaps(np.array(bias.gaps, np.float64))
        yield Number("auc", "AUC of the length alone", auc, False, "how well length predicts the label; ½ is chance")
        for name, (better, worse) in style.rates().items():
            for side, measured in (("preferred", better), ("others", worse)):
                interval = interval_of(measured, seed=seed)
                yield Number(f"{name}_{side}", f"{name}: {side}", interval, True, measured.meaning)
    if all(bias.by_label):
        auc = auc_of_lengths(bias.by_label[True], bias.by_label[False])
        yield Number("auc", "AUC of the length alone", auc, False, "how well length predicts the label; ½ is chance")


def quantile(lengths: Mapping[int, int], share_below: float) -> float:
    """Return the smallest length that at least this share of all lengths do not exceed."""
    values = np.array(sorted(lengths))
    counts = np.cumsum([lengths[int(value)] for value in values])
    return float(values[np.searchsorted(counts, math.ceil(share_below * counts[-1]))])


def worst_rows(inspection: Inspection, sizes: Sizes) -> list[WorstRow]:
    """Return the rows with the most serious marks, then with the most of them."""
    size_of = dict(sizes.by_row(inspection.by_row))
    rows = []
    for row, marks in inspection.by_row.items():
        ordered = sorted(marks, key=lambda left: (LEVELS.index(inspection.rule_of(left.key).level), left.key))
        level = inspection.rule_of(ordered[0].key).level
        keys = tuple(left.key for left in ordered)
        rows.append((row, WorstRow(inspection.locations[row], level, keys, ordered[0].detail, size_of.get(row))))
    rows.sort(key=lambda item: (LEVELS.index(item[1].level), -len(item[1].keys), item[0]))
    return [worst for _, worst in rows[:MOST_WORST]]


def verdict_of_check(report: CheckReport) -> tuple[str, str]:
    """Return what the findings say in a few words, and as a class of the page."""
    if report.has_errors:
        return "Errors", "worse"
    if report.count("warning"):
        return "Warnings", "cautious"
    return "Nothing found that harms", "better"


def sentences_of(report: CheckReport) -> list[str]:
    """Return the counts in sentences."""
    kept = f"{report.num_kept:,} of {report.num_rows:,} rows can be trained on"
    counts = [f"{n} {level}{'s' * (n != 1)}" for level in LEVELS if (n := report.count(level))]
    return [f"{kept}.", f"Found: {', '.join(counts)}." if counts else "Nothing was found."]


def as_plain(report: CheckReport) -> dict[str, Any]:
    """Return the report as plain values for JSON."""
    return {
        "schema": SCHEMA,
        "sources": report.sources,
        "shape": report.shape,
        "length_unit": report.unit,
        "rows": report.num_rows,
        "kept": report.num_kept,
        "has_errors": report.has_errors,
        "findings": [plain_finding(finding) for finding in report.findings],
        "numbers": {n.key: {"value": plain_number(n.value), "meaning": n.meaning} for n in report.numbers},
        "notes": [str(note) for note in report.notes],
    }


def plain_finding(finding: Finding) -> dict[str, Any]:
    """Return a finding as plain values."""
    rule = finding.rule
    return {
        "code": rule.code,
        "title": CODES[rule.code],
        "key": rule.key,
        "level": rule.level,
        "count": finding.count,
        "of": finding.of,
        "unit": rule.unit,
        "rate": finding.rate,
        "cause": rule.cause,
        "fix": rule.fix,
        "detail": finding.detail,
        "examples": list(finding.examples),
        "numbers": {
            name: plain_number(interval_of(value) if isinstance(value, Measured) else value)
            for name, value in finding.numbers.items()
        },
    }


def plain_number(value: Interval | float) -> Any:
    """Return a number, or an interval as a mapping."""
    return vars(value) if isinstance(value, Interval) else value
