"""Read single cells by type. A cell of the wrong type is a defect of its row, and the message shows its value.

Numbers may be given as text, because CSV has only text. Callers remove nulls before.

In all functions, `column` is the column's name for messages, and they raise `Defect` for a value they cannot read.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tiltlm.data.accounting import Defect, excerpt

Message = dict[str, Any]
"""A turn of a conversation: `role`, `content` and other keys that the chat template reads."""
Conversation = tuple[Message, ...]


@dataclass(frozen=True)
class TokenContent:
    """A prompt or a response given as token ids."""

    ids: tuple[int, ...]
    ended: bool | None = None
    """True if the response ended by itself, False if it was cut. None: the row does not say."""


Content = str | Conversation | TokenContent
"""A prompt or a response: plain text, turns for a chat template, or token ids."""


def wrong_type(column: str, value: object, wanted: str) -> Defect:
    """Return the defect of a value that is not `wanted`."""
    return Defect("wrong_type", f"{column} is {excerpt(value)}, but must be {wanted}")


def content(column: str, value: object) -> Content:
    """Read text or a conversation. Token ids that were read before are returned unchanged."""
    if isinstance(value, TokenContent):
        return value
    if isinstance(value, str):
        return text(column, value)
    return conversation(column, value)


def text(column: str, value: object) -> str:
    """Read text that can be written as UTF-8."""
    if not isinstance(value, str):
        raise wrong_type(column, value, "text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Defect("invalid_unicode", f"{column} has half of a surrogate pair at character {error.start}") from error
    return value


def conversation(column: str, value: object) -> Conversation:
    """Read turns, each with a role. Nulls are removed: Arrow puts them into fields that a turn does not have."""
    if not isinstance(value, list | tuple):
        raise wrong_type(column, value, "text or a list of messages")
    turns = []
    for turn in value:
        if not isinstance(turn, Mapping) or not isinstance(turn.get("role"), str):
            raise wrong_type(column, turn, 'a message: {"role": ..., "content": ...}')
        _check_content(column, turn.get("content"))
        kept = {key: item for key, item in turn.items() if item is not None}
        turns.append({"content": "", **kept})
    return tuple(turns)


def _check_content(column: str, value: object) -> None:
    """Accept text, a list of text parts, or None. Of a picture, only its placeholder would reach the prompt."""
    if value is None:
        return
    if isinstance(value, str):
        text(column, value)
        return
    for part in items(column, value):
        if not isinstance(part, Mapping) or part.get("type") != "text":
            raise wrong_type(column, part, "a part of type text; other content is not supported")
        text(column, part.get("text"))


def number(column: str, value: object) -> float:
    """Read a finite number."""
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        result = float(value)
    except (ValueError, OverflowError) as error:
        raise wrong_type(column, value, "a number") from error
    if not math.isfinite(result):
        raise wrong_type(column, value, "a finite number")
    return result


def at_least_zero(column: str, value: object) -> float:
    """Read a finite number ≥ 0."""
    result = number(column, value)
    if result < 0:
        raise wrong_type(column, value, "a number ≥ 0")
    return result


def probability(column: str, value: object) -> float:
    """Read a number between 0 and 1."""
    result = number(column, value)
    if not 0 <= result <= 1:
        raise wrong_type(column, value, "a probability between 0 and 1")
    return result


def label(column: str, value: object) -> bool:
    """Read a label: true (desirable) or false, 1 or 0, also as text."""
    known = {"1": True, "0": False, "true": True, "false": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, int | str) and str(value).strip().lower() in known:
        return known[str(value).strip().lower()]
    raise wrong_type(column, value, "true or false")


def items(column: str, value: object, length: int | None = None) -> list[Any]:
    """Read a list. None as `length`: any length."""
    if not isinstance(value, list | tuple):
        raise wrong_type(column, value, "a list")
    if length is not None and len(value) != length:
        raise wrong_type(column, value, f"a list of {length} values")
    return list(value)


def each(values: Mapping[str, Any], column: str, length: int) -> list[Any]:
    """Read a list with one value per response. Return an empty list if the row has no such column."""
    if column not in values:
        return []
    entries = items(column, values[column], length)
    if None in entries:
        raise Defect("missing_value", f"{column}[{entries.index(None)}] is null")
    return entries


def ids(column: str, value: object) -> tuple[int, ...]:
    """Read a list of token ids, also as JSON text. The encoder compares them with the vocabulary later."""
    entries = structure(column, value, list)
    for entry in entries:
        if not isinstance(entry, int) or isinstance(entry, bool):
            raise wrong_type(column, entry, "a token id")
    return tuple(entries)


def structure(column: str, value: object, kind: type) -> Any:
    """Read a list or a mapping, also as JSON text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise wrong_type(column, value, f"a {kind.__name__} in JSON") from error
    if not isinstance(value, kind):
        raise wrong_type(column, value, f"a {kind.__name__}")
    return value
