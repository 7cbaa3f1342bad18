"""Read single cells by type. A cell of the wrong type is a defect of its row, and the message shows its value.

Numbers may be given as text, because CSV has only text. Callers remove nulls before.

In all functions, `column` is the column's name for messages, and they raise `Defect` for a value they cannot read.
"""

import ast
import contextlib
import json
import math
import re
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


ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
"""Roles that are recognised with capitals too. Other roles are left as they are, because templates may know them."""

SHAREGPT_KEYS = {"from": "role", "value": "content"}
SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "observation": "tool"}

START_OF_MESSAGES = re.compile(r"\s*(array\()?\[?\s*\{")
ROLE_IN_TEXT = re.compile(
    r"""(['"])(role|from)\1\s*:\s*(['"])(system|developer|user|assistant|tool|human|gpt)\3""", re.I
)
"""Where both are found, a text may spell messages in JSON or Python: `[{"role": "user", …`."""

Content = str | Conversation | TokenContent
"""A prompt or a response: plain text, turns for a chat template, or token ids."""


def wrong_type(column: str, value: object, wanted: str) -> Defect:
    """Return the defect of a value that is not `wanted`."""
    return Defect("wrong_type", f"{column} is {excerpt(value)}, but must be {wanted}")


def content(column: str, value: object) -> Content:
    """Read text or a conversation, also a conversation written as JSON or Python text.

    Token ids that were read before are returned unchanged.
    """
    if isinstance(value, TokenContent):
        return value
    if isinstance(value, str):
        turns = _written_turns(column, value)
        return text(column, value) if turns is None else conversation(column, turns)
    return conversation(column, value)


def _written_turns(column: str, value: str) -> object:
    """Return the messages that a text spells in JSON or Python, as exports to CSV do; None if it spells none.

    Raises:
        Defect: It begins as a list of messages, but cannot be read.
    """
    start = START_OF_MESSAGES.match(value)
    if not start or not ROLE_IN_TEXT.search(value):
        return None
    for read in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            read_value = read(value)
            return read_value if _are_messages(read_value) else None
    if "[" not in start[0]:
        return None
    raise wrong_type(column, value, "messages in JSON; this text begins like a list of messages, but is no valid JSON")


def _are_messages(value: object) -> bool:
    """Return True for a message or a list of messages, and nothing else."""
    turns = value if isinstance(value, list) else [value]
    needed = ({"role", "content"}, {"role", "tool_calls"}, {"from", "value"})
    return bool(turns) and all(isinstance(t, dict) and any(keys <= t.keys() for keys in needed) for t in turns)


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
    """Read turns, each with a role, in the one form that chat templates read.

    ShareGPT's `from` and `value` become `role` and `content`, and a turn alone becomes a list of one. Usual roles may
    have capitals. Text parts are joined. OpenAI's tool-call arguments, which are JSON text, become a mapping. Nulls of
    a turn are removed: they stand for missing fields.
    """
    turns = [value] if isinstance(value, Mapping) else value
    if not isinstance(turns, list | tuple):
        raise wrong_type(column, value, "text or a list of messages")
    return tuple(_turn(column, turn) for turn in turns)


def _turn(column: str, value: object) -> Message:
    if not isinstance(value, Mapping):
        raise wrong_type(column, value, 'a message: {"role": ..., "content": ...}')
    turn: Message = {SHAREGPT_KEYS.get(str(key), str(key)): item for key, item in value.items() if item is not None}
    role = turn.get("role")
    if not isinstance(role, str):
        raise wrong_type(column, value, 'a message: {"role": ..., "content": ...}')
    if "from" in value:
        role = SHAREGPT_ROLES.get(role.lower(), role)
    turn["role"] = role.lower() if role.lower() in ROLES else role
    turn["content"] = _joined_text(column, turn.get("content", ""))
    if "tool_calls" in turn:
        turn["tool_calls"] = [_tool_call(column, call) for call in structure(column, turn["tool_calls"], list)]
    return turn


def _joined_text(column: str, value: object) -> str:
    """Return text, also of a list of text parts. Of a picture, only its placeholder would reach the prompt."""
    if isinstance(value, str):
        return text(column, value)
    parts = []
    for part in items(column, value):
        if not isinstance(part, Mapping) or part.get("type") != "text":
            raise wrong_type(column, part, "a part of type text; other content is not supported")
        parts.append(text(column, part.get("text")))
    return "".join(parts)


def _tool_call(column: str, value: object) -> object:
    """Return a tool call whose arguments are a mapping. As text, a template would write them as JSON once more."""
    if not isinstance(value, Mapping):
        raise wrong_type(column, value, "a tool call")
    if isinstance(value.get("function"), Mapping):
        return {**value, "function": _tool_call(column, value["function"])}
    if not isinstance(value.get("arguments"), str):
        return value
    return {**value, "arguments": structure(f"{column}: arguments", value["arguments"] or "{}", dict)}


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
    """Read a label: true (desirable) or false, 1 and 0, or 1 and -1; also as text."""
    known = {"true": True, "false": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in known:
        return known[value.strip().lower()]
    with contextlib.suppress(Defect):
        read = number(column, value)
        if read in (1, 0, -1):
            return read == 1
    raise wrong_type(column, value, "true or false")


def items(column: str, value: object, length: int | None = None) -> list[Any]:
    """Read a list, also as JSON text. None as `length`: any length."""
    if isinstance(value, str):
        value = structure(column, value, list)
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
