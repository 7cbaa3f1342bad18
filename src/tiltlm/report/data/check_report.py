"""What a check of data found, as one object: printed, written as JSON, and shown as a page."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tiltlm.core.notes import Note
from tiltlm.data.quality.contents import STYLES, Style
from tiltlm.data.quality.inspection import Inspection
from tiltlm.data.quality.lengths import LengthPredictsLabel, Sizes
from tiltlm.data.quality.rules import CODES, LEVELS, Finding, Level
from tiltlm.data.stats.lengths import summarise
from tiltlm.estimates.intervals import Interval
from tiltlm.report.numbers import format_number, share, with_bounds

SCHEMA = "tiltlm.check/1"
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
    gaps: Mapping[int, float] = field(default_factory=dict)
    """Length of the preferred response minus that of the other → how many."""
    worst: tuple[WorstRow, ...] = ()
    notes: tuple[Note, ...] = ()

    def count(self, level: Level) -> int:
        """Return how many findings have this level."""
        return sum(finding.rule.level == level for finding in self.findings)

    @property
    def has_errors(self) -> bool:
        """True if a finding is an error."""
        return self.count("error") > 0


def report_of(inspection: Inspection, sources: str, shape: str, unit: str, notes: Iterable[Note] = ()) -> CheckReport:
    """Return what an inspection found as a report.

    Args:
        inspection: All rows, inspected.
        sources: Names of what was read.
        shape: Shape of the data.
        unit: Unit of lengths.
        notes: What the user should know beside findings.
    """
    by_kind = {type(check): check for check in inspection.checks}
    lengths, style, sizes = by_kind.get(LengthPredictsLabel), by_kind.get(Style), by_kind.get(Sizes)
    assert isinstance(lengths, LengthPredictsLabel)
    assert isinstance(style, Style)
    assert isinstance(sizes, Sizes)
    return CheckReport(
        sources,
        shape,
        unit,
        inspection.accounting.total,
        inspection.accounting.kept,
        tuple(inspection.findings()),
        tuple(numbers_of(lengths, style, unit)),
        lengths.parts(),
        lengths.compared.gaps,
        tuple(worst_rows(inspection, sizes)),
        tuple(notes),
    )


def numbers_of(lengths: LengthPredictsLabel, style: Style, unit: str) -> Iterator[Number]:
    """Yield the numbers of all data, whether they are findings or not."""
    for name, counts in lengths.parts().items():
        found = summarise(counts)
        assert found is not None, "no part is empty"
        yield Number(f"median_{name}", f"{name}: median length", found["median"], False, f"in {unit}")
        yield Number(f"p999_{name}", f"{name}: 99.9 % are at most", found["p999"], False, f"in {unit}")
    if lengths.longer is not None and lengths.gap is not None:
        meaning = "the longer response is preferred, equal lengths as ½"
        yield Number("longer", "longer response preferred", lengths.longer, True, meaning)
        meaning = "mean length of the preferred response minus that of the other"
        yield Number("gap", f"length gap, {unit}", lengths.gap, False, meaning)
    if lengths.auc is not None:
        meaning = "how well length predicts the label; ½ is chance"
        yield Number("auc", "AUC of the length alone", lengths.auc, False, meaning)
    for name, (better, worse) in style.rates.items():
        says = STYLES[name][1]
        yield Number(f"{name}_preferred", f"{name}: preferred", better, True, f"preferred responses that {says}")
        yield Number(f"{name}_others", f"{name}: others", worse, True, f"other responses that {says}")


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
        "numbers": {name: plain_number(value) for name, value in finding.numbers.items()},
    }


def plain_number(value: Interval | float) -> Any:
    """Return a number, or an interval as a mapping."""
    return vars(value) if isinstance(value, Interval) else value
