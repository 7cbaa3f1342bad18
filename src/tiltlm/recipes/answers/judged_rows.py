"""Rows of any shape as what a judge reads: a prompt, its responses as text, and the row's other columns.

The columns are read as training reads them. Columns that training would not know stay beside the row, because a judge
may read them: the right answer, unit tests, a rubric.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tiltlm.core.errors import DataError
from tiltlm.core.needs import Shape
from tiltlm.data import Accounting, DataSettings
from tiltlm.data.accounting import Defect
from tiltlm.data.dataset import refuse_unreadable, survey
from tiltlm.data.files.sources import Rows, read_rows
from tiltlm.data.files.text_files import Row
from tiltlm.data.loader import count_defect
from tiltlm.data.rows import cells
from tiltlm.data.rows.cells import Content, TokenContent
from tiltlm.data.rows.columns import ColumnRoles, detect
from tiltlm.data.rows.formats.catalog import recognise
from tiltlm.data.rows.records import Record, to_record
from tiltlm.data.rows.roles import ALL_ROLES, ENDED, PAIR_ONLY, REFERENCE, ROLES_OF_SHAPE, TOKENS
from tiltlm.data.whole_rows import whole_rows
from tiltlm.judging import Item, PairItem, Prompt

ORDERS = frozenset({"ranks", "scores", "comparisons"})
"""Columns of lists that a judge replaces."""
OF_ANSWERS = frozenset(
    {
        *(
            "logps",
            "behaviour_logps",
            "behaviour_token_logps",
            "temperature",
            "seed",
            "model",
            "model_digest",
            "engine",
            "exact",
        ),
        *("untruncated", "score_errors", "completions_ended"),
    }
)
"""Columns of answer files that say how an answer was drawn. No judge reads them."""
NOT_READ = ORDERS | OF_ANSWERS | PAIR_ONLY | REFERENCE | TOKENS.keys() | frozenset(ENDED.values())
"""Columns that say nothing about the text of prompt and responses."""


@dataclass(frozen=True)
class JudgedRow:
    """A row with its responses as a judge sees them."""

    location: str
    values: Mapping[str, Any]
    """All columns of the row, as they were read; a pair of another tool's form in our columns."""
    prompt: Prompt
    responses: tuple[str, ...]
    ended: tuple[bool, ...]
    extras: Mapping[str, Any] = field(default_factory=dict)
    """Columns that are neither prompt nor response."""

    @property
    def items(self) -> list[Item]:
        """Each response, to be scored."""
        return [Item(self.prompt, r, self.extras, e) for r, e in zip(self.responses, self.ended, strict=True)]

    def pair(self, i: int, j: int) -> PairItem:
        """Two responses, to be compared."""
        ended = (self.ended[i], self.ended[j])
        return PairItem(self.prompt, self.responses[i], self.responses[j], self.extras, ended)


@dataclass(frozen=True)
class JudgedData:
    """The rows of some data."""

    shape: Shape
    rows: tuple[JudgedRow, ...]
    accounting: Accounting
    notes: tuple[str, ...]


def read_judged(settings: DataSettings) -> JudgedData:
    """Read rows for a judge.

    Raises:
        DataError: A source is missing, has no responses, or too many rows are defective.
    """
    source = whole_rows(read_rows(settings))
    columns, _ = survey([source])
    if not columns:
        refuse_unreadable(source)
    schema = roles_for_judges(columns, settings)
    accounting = Accounting()
    rows: list[JudgedRow] = []
    for row in source:
        accounting.total += 1
        with count_defect(accounting, row.location):
            rows.append(_judged_row(row, schema))
    accounting.check_limit(settings.max_bad, settings.on_bad)
    if not rows:
        raise DataError(f"{_names(source)}: no row can be judged", code="no_rows_left", key="data.train")
    return JudgedData(schema.shape, tuple(rows), accounting, (*schema.notes, *source.notes))


def _names(source: Rows) -> str:
    return ", ".join(part.name for part in source.sources)


def roles_for_judges(first_seen: Mapping[str, str], settings: DataSettings) -> ColumnRoles:
    """Find the roles of the columns with prompts and responses. All other columns have none, and that is no error.

    Args:
        first_seen: Each column of the data → location of the first row that has it.
        settings: Of these, `columns` and `ignore` are used.
    """
    renamed = {column: role for role, column in settings.columns.items()}
    names = {renamed.get(c, c): c for c in first_seen if renamed.get(c, c) not in NOT_READ and c not in settings.ignore}
    usable = _usable(names)
    reading = recognise(names, ALL_ROLES)
    known = {
        column
        for name, column in names.items()
        if name in usable or reading.roles.get(name) in usable or name in reading.remarks or name in reading.taken
    }
    used = {column: place for column, place in first_seen.items() if column in known}
    if "completions" in {reading.roles.get(name, name) for name in names}:
        used["ranks"] = next(iter(first_seen.values()))  # any order: the reader of lists wants one
    columns = {role: column for role, column in settings.columns.items() if column in used}
    return detect(used, replace(settings, columns=columns, ignore=()))


def _usable(names: Collection[str]) -> frozenset[str]:
    """Return the roles that columns may have; those of other shapes are remarks: an `answer` beside `completions`."""
    if "completions" in names:
        return ROLES_OF_SHAPE["lists"]
    if {"chosen", "rejected"} <= set(names):
        return ROLES_OF_SHAPE["pairs"]
    return ALL_ROLES


def _judged_row(row: Row, schema: ColumnRoles) -> JudgedRow:
    """Read one row.

    Raises:
        Defect: It has no prompt or responses that can be read.
    """
    if row.defect:
        raise row.defect
    of_role = {schema.renamed.get(column, column): column for column in row.values}
    read = dict(row.values)
    if schema.shape == "lists" and "completions" in of_role:
        given = row.values[of_role["completions"]]
        read = {c: v for c, v in read.items() if c not in ORDERS}
        read["ranks"] = list(range(1, 1 + len(cells.items("completions", given))))
    record = to_record(Row(row.location, read), schema)
    responses = tuple(response_text(response) for response in record.responses)
    taken = {*schema.roles, *NOT_READ}
    extras = {c: v for c, v in row.values.items() if schema.renamed.get(c, c) not in taken and c not in schema.taken}
    ended = _ended(row.values, schema.shape, len(responses))
    values = _in_our_columns(row.values, record, schema) if schema.readers else dict(row.values)
    return JudgedRow(row.location, values, prompt_of(record), responses, ended, extras)


def _ended(values: Mapping[str, Any], shape: Shape, num: int) -> tuple[bool, ...]:
    """Return which responses ended by themselves; all, if the row does not say."""
    flags: Sequence[Any]
    if shape == "pairs":
        flags = [values.get(ENDED["chosen"]), values.get(ENDED["rejected"])]
    elif shape == "lists":
        flags = cells.each(values, "completions_ended", num) or cells.each(values, ENDED["completions"], num)
        flags = flags or [None] * num
    else:
        flags = [values.get(ENDED["completion"])]
    return tuple(flag is None or cells.label("ended", flag) for flag in flags)


def _in_our_columns(values: Mapping[str, Any], record: Record, schema: ColumnRoles) -> dict[str, Any]:
    """Return a row of another tool's form in our columns: training reads no other form beside a judge's columns."""
    rest = {c: v for c, v in values.items() if schema.renamed.get(c, c) not in schema.roles and c not in schema.taken}
    names = ("chosen", "rejected") if schema.shape == "pairs" else ()
    responses: dict[str, Any] = dict(zip(names, map(_plain, record.responses), strict=False))
    if schema.shape == "lists":
        responses = {"completions": [_plain(response) for response in record.responses]}
    return {"id": record.id, **rest, "prompt": _plain(record.prompt), **responses}


def _plain(content: Content) -> Any:
    return list(content) if isinstance(content, tuple) else content


def prompt_of(record: Record) -> Prompt:
    """Return the prompt of a record; text with a system turn becomes turns."""
    prompt = record.prompt
    assert not isinstance(prompt, TokenContent), "columns of token ids are not read"
    if record.system and isinstance(prompt, str):
        return ({"role": "system", "content": record.system}, {"role": "user", "content": prompt})
    return prompt


def response_text(response: Content) -> str:
    """Return a response as text; of several turns, those of the assistant with blank lines between them."""
    assert not isinstance(response, TokenContent), "columns of token ids are not read"
    if isinstance(response, str):
        return response
    texts = [str(turn["content"]) for turn in response if turn["role"] == "assistant"]
    if not any(text.strip() for text in texts):
        raise Defect("empty_response", "the response has no text; tool calls alone cannot be judged")
    return "\n\n".join(texts)


def with_columns(values: Mapping[str, Any], added: Mapping[str, Any], removed: Iterable[str]) -> dict[str, Any]:
    """Return a row without some columns and with new ones at its end."""
    without = {*removed, *added}
    return {**{column: value for column, value in values.items() if column not in without}, **added}
