"""Typed reading of single cells. A cell of the wrong type is a defect of its row, with the value shown.

Numbers may come as text, since CSV has nothing else; nulls never arrive here.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tiltlm.data.accounting import Defect, excerpt

Message = dict[str, Any]
"""A turn of a conversation: `role`, `content` and whatever else the chat template reads."""
Conversation = tuple[Message, ...]


@dataclass(frozen=True)
class TokenContent:
    """A prompt or a response that was tokenised before."""

    ids: tuple[int, ...]
    ended: bool | None = None
    """Whether a response ended by itself; None where the row does not say."""


Content = str | Conversation | TokenContent
"""A prompt or a response: text as it stands, turns for a chat template, or token ids."""


def wrong(column: str, value: object, wanted: str) -> Defect:
    return Defect("wrong_type", f"{column} is {excerpt(value)}, not {wanted}")


def content(column: str, value: object) -> Content:
    """Text, a conversation, or tokens that were read before."""
    if isinstance(value, TokenContent):
        return value
    if isinstance(value, str):
        return text(column, value)
    return conversation(column, value)


def text(column: str, value: object) -> str:
    if not isinstance(value, str):
        raise wrong(column, value, "text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Defect("invalid_unicode", f"{column}: half a surrogate pair at character {error.start}") from error
    return value


def conversation(column: str, value: object) -> Conversation:
    """Turns with a role each; the nulls that Arrow puts into absent fields are taken out."""
    if not isinstance(value, list | tuple):
        raise wrong(column, value, "text or a list of messages")
    turns = []
    for turn in value:
        if not isinstance(turn, Mapping) or not isinstance(turn.get("role"), str):
            raise wrong(column, turn, 'a message: {"role": ..., "content": ...}')
        _check_content(column, turn.get("content"))
        kept = {key: item for key, item in turn.items() if item is not None}
        turns.append({"content": "", **kept})
    return tuple(turns)


def _check_content(column: str, value: object) -> None:
    """Text, parts of text, or nothing; a picture would leave its placeholder in the prompt and no picture."""
    if value is None:
        return
    if isinstance(value, str):
        text(column, value)
        return
    for part in items(column, value):
        if not isinstance(part, Mapping) or part.get("type") != "text":
            raise wrong(column, part, "text; other content is not supported")
        text(column, part.get("text"))


def number(column: str, value: object) -> float:
    """A finite number."""
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        result = float(value)
    except (ValueError, OverflowError) as error:
        raise wrong(column, value, "a number") from error
    if not math.isfinite(result):
        raise wrong(column, value, "a finite number")
    return result


def at_least_zero(column: str, value: object) -> float:
    result = number(column, value)
    if result < 0:
        raise wrong(column, value, "a number ≥ 0")
    return result


def probability(column: str, value: object) -> float:
    result = number(column, value)
    if not 0 <= result <= 1:
        raise wrong(column, value, "a probability between 0 and 1")
    return result


def label(column: str, value: object) -> bool:
    """True is desirable; 1 and 0 (numbers or text) and `true` and `false` (text) are taken too."""
    known = {"1": True, "0": False, "true": True, "false": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, int | str) and str(value).strip().lower() in known:
        return known[str(value).strip().lower()]
    raise wrong(column, value, "true or false")


def items(column: str, value: object, length: int | None = None) -> list[Any]:
    """A list, of this length where one is given."""
    if not isinstance(value, list | tuple):
        raise wrong(column, value, "a list")
    if length is not None and len(value) != length:
        raise wrong(column, value, f"a list of {length}")
    return list(value)


def each(values: Mapping[str, Any], column: str, length: int) -> list[Any]:
    """One value for each of so many responses; none where the row has no such column."""
    if column not in values:
        return []
    entries = items(column, values[column], length)
    if None in entries:
        raise Defect("missing_value", f"{column}[{entries.index(None)}] is null")
    return entries


def ids(column: str, value: object) -> tuple[int, ...]:
    """Token ids, as a list or as JSON of one; the vocabulary is checked where the tokenizer is known."""
    entries = structure(column, value, list)
    for entry in entries:
        if not isinstance(entry, int) or isinstance(entry, bool):
            raise wrong(column, entry, "a token id")
    return tuple(entries)


def structure(column: str, value: object, kind: type) -> Any:
    """A list or mapping, as it stands or as JSON text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise wrong(column, value, f"JSON of a {kind.__name__}") from error
    if not isinstance(value, kind):
        raise wrong(column, value, f"a {kind.__name__}")
    return value
