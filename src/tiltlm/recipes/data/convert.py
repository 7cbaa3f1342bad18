"""The recipe that converts data from one tool's format to another's. No tokenizer is needed."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tiltlm.core.errors import ConfigError, DataError
from tiltlm.data.accounting import Defect, RowCounts
from tiltlm.data.data_settings import FILE_KEYS, LABEL_KEYS, DataSettings, paths_of
from tiltlm.data.dataset import refuse_unreadable, survey
from tiltlm.data.files.sources import Rows, read_rows
from tiltlm.data.files.writing import check_ending, is_dataset_folder, write_rows
from tiltlm.data.rows.columns import ColumnRoles, assign_roles, detect
from tiltlm.data.rows.formats.catalog import FORMATS, WRITTEN
from tiltlm.data.rows.losses import Losses
from tiltlm.data.rows.prompts import is_transcript
from tiltlm.data.rows.records import Record, to_record
from tiltlm.data.rows.written import Target
from tiltlm.data.whole_rows import whole_rows
from tiltlm.recipes.data.converted import Converted, loss_lines
from tiltlm.recipes.progress import ProgressCallback, silent

CONVERT_READS = (
    *(f"data.{name}" for name in ("train", "split", "subset", "revision", "limit", "columns", "ignore")),
    *LABEL_KEYS,
    *FILE_KEYS,
)
"""Settings that the command reads."""
STEP = 1000
"""Rows between two calls of the progress callback."""


@dataclass(frozen=True)
class ConvertSettings:
    """Settings of the recipe."""

    data: DataSettings


@dataclass(frozen=True)
class ConvertRequest:
    """What is written, and where."""

    output: Path
    to: str
    """Name of the format."""
    form: str | None = None
    """Name of the format of the data. None: it is recognised."""
    lossy: bool = False
    """Write although something is lost."""
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.to not in WRITTEN:
            raise ConfigError(
                f"--to {self.to}: no such format; those that can be written are {', '.join(sorted(WRITTEN))}",
                code="unknown_name",
                key="--to",
            )
        check_ending(self.output)


@dataclass
class _Count:
    """What happened while rows were converted."""

    num_read: int = 0
    num_written: int = 0
    forms: Counter[str] = field(default_factory=Counter)
    losses: Losses = field(default_factory=dict)


def convert(settings: ConvertSettings, request: ConvertRequest, *, progress: ProgressCallback = silent) -> Converted:
    """Write data in another format. The input is never changed.

    Args:
        settings: Sources, and how their columns are named.
        request: What is written, and where.
        progress: Called as rows are read.

    Raises:
        ConfigError: The output exists, or is the input.
        DataError: The data cannot be read, the format has no room for them, or something would be lost without `lossy`.
        RunError: The output cannot be written.
    """
    names = paths_of(settings.data.train)
    check_output(request, names)
    rows = whole_rows(read_rows(settings.data))
    progress("read the columns", 0, 0)
    columns, num_rows = survey([rows])
    if not columns:
        refuse_unreadable(rows)
    schema, lost_columns = _roles(columns, settings.data, request.form)
    target = Target.of(WRITTEN[request.to], schema)
    count = _Count()
    if lost_columns:
        count.losses["columns"] = RowCounts(num_rows, [", ".join(lost_columns)])
    _count_details(schema, count, num_rows)
    write_rows(request.output, _written(rows, num_rows, target, request, count, progress))
    form = schema.format or request.form or ""
    source = ", ".join(names)
    notes = _notes(count, target)
    return Converted(
        source, request.output, form, request.to, schema.shape, target.shape, count.num_read, count.num_written,
        dict(count.forms), count.losses, notes,
    )  # fmt: skip


def check_output(request: ConvertRequest, names: tuple[str, ...]) -> None:
    """Raise if the output exists and may not be replaced, or is the input, or in it.

    Raises:
        ConfigError: It is so.
    """
    output = request.output.resolve()
    for name in filter(lambda name: Path(name).exists(), names):  # others are on the Hub
        source = Path(name).resolve()
        if output == source or source in output.parents or output in source.parents:
            raise ConfigError(
                f"OUT {request.output} is the input {name}, or one of them is inside the other; name another place, "
                "since the input is never changed",
                code="conflict",
                key="OUT",
            )
    if not output.parent.is_dir():
        raise ConfigError(
            f"OUT {request.output}: the folder {request.output.parent} does not exist; create it first",
            code="no_such_path",
            key="OUT",
        )
    if not request.output.exists():
        return
    if not request.overwrite:
        raise ConfigError(
            f"OUT {request.output} exists; give --overwrite to replace it, or another name",
            code="output_exists",
            key="OUT",
        )
    if request.output.is_dir() and not is_dataset_folder(request.output):
        raise ConfigError(
            f"OUT {request.output} is a folder with other files than those of a saved dataset; it is not replaced. "
            "Name another place",
            code="output_exists",
            key="OUT",
        )


def _roles(columns: Mapping[str, str], settings: DataSettings, forced: str | None) -> tuple[ColumnRoles, list[str]]:
    """Return what the columns are for, and those that are lost because they are for nothing.

    Args:
        columns: Column → location of the first row that has it.
        settings: Of these, `columns` and `ignore` are used.
        forced: Name of the format. None: it is recognised.
    """
    found = assign_roles(columns, settings, forced)
    ignore = (*settings.ignore, *sorted(found.unknown))
    schema = detect(columns, replace(settings, ignore=ignore), use_reference_columns=True, forced=forced)
    repeated = {"messages", "text"} & set(schema.unused) if schema.shape == "pairs" else set()
    return schema, [column for column in schema.unused if column not in repeated]


def _count_details(schema: ColumnRoles, count: _Count, num_rows: int) -> None:
    """Count what reading itself does not keep."""
    form = next((form for form in FORMATS if form.name == schema.format), None)
    if form is not None and form.loses:
        count.losses["details"] = RowCounts(num_rows, [form.loses])
    if "votes" in schema.roles:
        count.losses["votes"] = RowCounts(num_rows, ["votes"])


def _written(
    rows: Rows, num_rows: int, target: Target, request: ConvertRequest, count: _Count, progress: ProgressCallback
) -> Iterator[Mapping[str, Any]]:
    """Yield the rows to write. At the end, refuse to go on if something was lost without consent."""
    for row in rows:
        count.num_read += 1
        if count.num_read % STEP == 0:
            progress("convert rows", count.num_read, num_rows)
        try:
            record = to_record(row, target.data)
            count.forms[_form_of(record)] += 1
            written = target.write(record, count.losses)
            for values in written:
                _check_text(values)
        except Defect as defect:
            counts = count.losses.setdefault("defects", RowCounts())
            counts.add(row.location, f"{defect.code}: {defect.detail}")
            continue
        count.num_written += len(written)
        yield from written
    _refuse_loss(request, count)


def _form_of(record: Record) -> str:
    if isinstance(record.prompt, str):
        return "transcripts" if is_transcript(record.prompt) else "text"
    return {"turns": "messages", "tokens": "token ids"}[record.form]


def _check_text(values: Mapping[str, Any]) -> None:
    """Refuse a row that is no JSON in UTF-8: text and numbers in identifiers and tools are not checked when read."""
    try:
        json.dumps(values, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError as error:
        raise Defect("invalid_unicode", f"half of a surrogate pair at character {error.start} of the row") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise Defect("wrong_type", f"the row cannot be written as JSON: {error}") from error


def _refuse_loss(request: ConvertRequest, count: _Count) -> None:
    if count.losses and not request.lossy:
        lines = [f"--to {request.to} would lose something, so nothing was written:"]
        lines += [f"  {line}" for line in loss_lines(count.losses)]
        raise DataError(
            "\n".join([*lines, "Give --lossy to write what is left, or choose another format with --to"]),
            code="would_lose",
            key="--lossy",
        )
    if not count.num_written:
        lines = [f"no row is left to write, of {count.num_read}:", *(f"  {line}" for line in loss_lines(count.losses))]
        raise DataError("\n".join(lines), code="no_rows_left", key="--to")


def _notes(count: _Count, target: Target) -> tuple[str, ...]:
    """Return how the form of the rows was changed; nothing of their content is lost by it."""
    form, notes = target.form.form, []
    if form == "turns" and count.forms["transcripts"]:
        notes.append("transcripts became messages; white space at the ends of turns was removed")
    if (form == "turns" and count.forms["text"]) or (form == "whole" and count.forms["text"]):
        notes.append("text became messages of a user and an assistant; white space at their ends was removed")
    if form in ("text", "history") and count.forms["messages"]:
        notes.append("conversations of one question and one answer became text")
    if form == "transcript" and (count.forms["text"] or count.forms["messages"]):
        notes.append("rows became transcripts: turns after `Human:` and `Assistant:`")
    return tuple(notes)
