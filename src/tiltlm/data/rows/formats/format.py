"""What a format is: the columns by which it is recognised, how its rows are read, and how they are written.

A reader turns the values of a row into values by our roles, and a writer turns them back. Both know plain values only,
so a row is parsed once, by `tiltlm.data.rows.records`, whatever its format is.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tiltlm.core.needs import Shape
from tiltlm.data.accounting import Defect
from tiltlm.data.rows import cells

Values = dict[str, Any]
Reader = Callable[[Values], Values]
"""Turns the values of a row, by role, into those of the roles that records have."""
Writer = Callable[[Values], Values]
"""Turns values by role into the columns of a format."""
WrittenForm = Literal["any", "text", "history", "turns", "transcript", "whole"]
"""`text`: one question and one answer; `history`: earlier turns may stand before it; `transcript`: Anthropic's text;
`whole`: a transcript or turns, since other text cannot be split into prompt and response."""

NOTHING: frozenset[str] = frozenset()
EXTRAS = frozenset({"id", "source"})
"""Roles that are kept as columns of their own, which other tools ignore."""


@dataclass(frozen=True)
class Format:
    """The form in which a tool writes its rows."""

    name: str
    """How messages and `tiltlm convert` call it."""
    about: str
    """What it is, for messages and the table of formats."""
    columns: frozenset[str] = NOTHING
    """The columns by which it is recognised. None: its columns are our roles."""
    roles: Mapping[str, str] = field(default_factory=dict)
    """Column → role."""
    remarks: frozenset[str] = NOTHING
    """Columns of this tool that have no role."""
    adds: frozenset[str] = NOTHING
    """Roles that `reader` adds."""
    reader: Reader | None = None
    takes: frozenset[str] = NOTHING
    """Columns that `reader` gets as they are, by the names that `plain_name` gives."""
    absent: frozenset[str] = NOTHING
    """Columns that the format never has."""
    only: frozenset[str] | None = None
    """The roles that columns of these names have; all other columns are remarks. None: names are read as usual."""
    winners: Mapping[str, str] = field(default_factory=dict)
    """Value of `winner` → a, b or tie, beside the usual ones."""
    writers: Mapping[Shape, Writer] = field(default_factory=dict)
    """Shape of data → what writes it. Empty: the format is only read."""
    holds: frozenset[str] = EXTRAS
    """Roles that writers keep beside prompt and responses. `tie`: a preference of ½, but no other one below 1."""
    form: WrittenForm = "any"
    """Form of prompts and responses that writers need."""
    is_implicit: bool = False
    """True if the prompt is only inside the responses, so that turns decide where it ends."""
    loses: str = ""
    """What rows have that no role takes, beside columns that have none."""
    rows_per_list: bool = False
    """True if each response of a list is a row of its own; these rows follow each other."""
    keeps_turn_keys: bool = False
    """True if turns may have more keys than role and content, such as tool calls."""


def plain_name(column: str) -> str:
    """Return the name of a column in lower case, with one underscore in place of spaces and signs."""
    return re.sub(r"[^a-z0-9]+", "_", column.lower()).strip("_")


def extras(values: Values, more: Sequence[str] = ()) -> Values:
    """Return the optional values that have the same column in the format as with us."""
    return {role: values[role] for role in (*sorted(EXTRAS), *more) if role in values}


def mapping(column: str, value: object) -> Mapping[str, Any]:
    """Read a mapping, also as JSON text."""
    if isinstance(value, Mapping):
        return value
    read = cells.structure(column, value, dict)
    assert isinstance(read, dict)
    return read


def mappings(column: str, value: object) -> list[Mapping[str, Any]]:
    """Read a list of mappings, also as JSON text."""
    return [mapping(column, item) for item in cells.items(column, value)]


def required(column: str, values: Mapping[str, Any], key: str | None = None) -> Any:
    """Return a value that must be there.

    Args:
        column: Its column, for the message.
        values: The mapping that has it.
        key: Its key. None: the column.
    """
    value = values.get(column if key is None else key)
    if value is None:
        raise Defect("missing_value", f"{column if key is None else f'{column}.{key}'} is missing")
    return value


def without(values: Values, *roles: str) -> Values:
    """Return the values without some roles."""
    return {role: value for role, value in values.items() if role not in roles}


def as_messages(response: Any) -> list[Any]:
    """Return a response as a list of messages."""
    return [{"role": "assistant", "content": response}] if isinstance(response, str) else list(response)


def one_message(response: Any) -> Any:
    """Return a response of one turn as this turn, and one of several as a list."""
    turns = as_messages(response)
    return turns[0] if len(turns) == 1 else turns


def whole(prompt: Any, response: Any) -> Any:
    """Return a prompt with its response as one text, or as one list of messages."""
    return prompt + response if isinstance(prompt, str) and isinstance(response, str) else [*prompt, *response]
