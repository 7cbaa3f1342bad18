"""What a report is about, as plain data: the page shows it and report.json keeps it, so both hold the same numbers."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tiltlm.core import RunError
from tiltlm.diagnostics import Interval
from tiltlm.evaluation import Gold, HeldOut, SampleComparison
from tiltlm.report.series import Series

SCHEMA = "tiltlm.report/1"


@dataclass(frozen=True)
class RunReport:
    """One run. Whatever was not measured is None, and the page says so."""

    title: str
    facts: Mapping[str, str] = field(default_factory=dict)
    """The run at a glance, as label → text: model, data, objective, steps."""
    held_out: HeldOut | None = None
    training_accuracy: Interval | None = None
    """Ranking accuracy after training on (some of) the very examples it was trained on."""
    samples: SampleComparison | None = None
    gold: Gold | None = None
    series: tuple[Series, ...] = ()
    """Curves over training (`series_of`)."""
    data: Mapping[str, Any] | None = None
    """Accounting of the rows (`Accounting.as_dict`)."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The resolved configuration."""
    versions: Mapping[str, str] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    """Of model, data and reference."""
    notes: tuple[str, ...] = ()
    """What the run told its user: conversions, choices, warnings."""
    command: str = ""
    """How to run it again."""
    created: str = ""
    """When, in ISO 8601."""


def to_plain(value: Any) -> Any:
    """JSON values: mappings, lists, strings, numbers. What is not finite is a string that `float` reads back."""
    if is_dataclass(value) and not isinstance(value, type):
        return to_plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def from_json(text: str, where: str) -> RunReport:
    """The report that report.json holds.

    Raises:
        RunError: it is none, or of another version; `where` names it.
    """
    try:
        content = json.loads(text)
        schema = content.pop("schema")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{where} is no report ({error!r}); write it again with `tiltlm report`", code="not_a_report"
        ) from error
    if schema != SCHEMA:
        raise RunError(
            f"{where} has schema {schema!r} and this version reads {SCHEMA!r}; write it again", code="other_version"
        )
    known = {f.name for f in fields(RunReport)}
    try:
        return TypeAdapter(RunReport).validate_python({k: v for k, v in content.items() if k in known})
    except ValidationError as error:
        raise RunError(
            f"{where} is damaged: {error.errors()[0]['loc']}: {error.errors()[0]['msg']}", code="damaged"
        ) from error
