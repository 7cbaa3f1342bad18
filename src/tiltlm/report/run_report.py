"""The data of a report. The page shows it and report.json stores it, so both have the same numbers."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tiltlm.core import RunError
from tiltlm.diagnostics import Interval
from tiltlm.evaluation import Gold, HeldOut, SampleComparison
from tiltlm.evaluation.probability import Probability
from tiltlm.report.series import Series
from tiltlm.storage.files import finite_json

SCHEMA = "tiltlm.report/1"


@dataclass(frozen=True)
class RunReport:
    """The data of one run. A part that was not measured is None, and the page says so."""

    title: str
    facts: Mapping[str, str] = field(default_factory=dict)
    """The main facts of the run, as label → text: model, data, objective, steps."""
    held_out: HeldOut | None = None
    training_accuracy: Interval | None = None
    """Ranking accuracy after training on examples that were used for training."""
    samples: SampleComparison | None = None
    gold: Gold | None = None
    probability: Probability | None = None
    """Where training moved probability."""
    failure: str = ""
    """Why the trained policy could not be measured; "" if it could."""
    skipped: int = 0
    """Optimiser steps that were skipped, because their loss or gradient was not finite."""
    series: tuple[Series, ...] = ()
    """Curves over training (`series_of`)."""
    data: Mapping[str, Any] | None = None
    """Counts of the rows of the data (`Accounting.as_dict`)."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The resolved configuration."""
    versions: Mapping[str, str] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    """Digests of model, data and reference."""
    notes: tuple[str, ...] = ()
    """Notes of the run: conversions, choices, warnings."""
    command: str = ""
    """The command that repeats the run."""
    created: str = ""
    """Time of the report, in ISO 8601."""


def to_plain(value: Any) -> Any:
    """Return a value as JSON: mappings, lists, strings, numbers. NaN and infinities become strings (`finite_json`)."""
    if is_dataclass(value) and not isinstance(value, type):
        return to_plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return finite_json(value) if value is None or isinstance(value, bool | int | float | str) else str(value)


def from_json(text: str, where: str) -> RunReport:
    """Return the report that the text of a report.json holds.

    Args:
        text: The content of the file.
        where: The path of the file, for messages.

    Raises:
        RunError: the text is not a report, is damaged, or has another schema.
    """
    try:
        content = json.loads(text)
        schema = content.pop("schema")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{where} is not a report ({error!r}); delete it and continue the run with --resume", code="not_a_report"
        ) from error
    if schema != SCHEMA:
        raise RunError(
            f"{where} has schema {schema!r}, but this version of tiltlm reads {SCHEMA!r}; read it with the version "
            "that wrote it, or run the training again",
            code="other_version",
        )
    known = {f.name for f in fields(RunReport)}
    try:
        return TypeAdapter(RunReport).validate_python({k: v for k, v in content.items() if k in known})
    except ValidationError as error:
        raise RunError(
            f"{where} is damaged: {error.errors()[0]['loc']}: {error.errors()[0]['msg']}", code="damaged"
        ) from error
