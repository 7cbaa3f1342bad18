"""What a given pair shows: left and right, never a and b, and nothing about where it comes from."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from tiltlm.labeling.queue.assignments import Assignment
from tiltlm.labeling.store.pairs import ShownPair, read_pair


@dataclass(frozen=True)
class Contents:
    """A given pair and its texts, as they came from the database."""

    given: Assignment
    pair: ShownPair

    @property
    def left(self) -> Any:
        """The response on the left."""
        return self.pair.a if self.given.left == "a" else self.pair.b

    @property
    def right(self) -> Any:
        """The response on the right."""
        return self.pair.b if self.given.left == "a" else self.pair.a


def read_contents(connection: Connection, given: Sequence[Assignment]) -> list[Contents]:
    """Return given pairs with their texts."""
    return [Contents(one, read_pair(connection, one.pair_id)) for one in given]


def as_turns(content: Any, role: str) -> list[tuple[str, str]]:
    """Return the turns of a text, or of a conversation, as role and text."""
    if isinstance(content, str):
        return [(role, content)]
    return [(str(turn.get("role", role)), _text(turn)) for turn in content]


def _text(turn: dict[str, Any]) -> str:
    """Return the text of a turn. What is no text, such as a call of a tool, is shown as JSON."""
    content = turn.get("content")
    texts = [content if isinstance(content, str) else _shown_json(content)] if content is not None else []
    more = {name: value for name, value in turn.items() if name not in ("role", "content") and value is not None}
    return "\n\n".join([*texts, *([_shown_json(more)] if more else [])])


def _shown_json(value: Any) -> str:
    return f"```json\n{json.dumps(value, indent=2, ensure_ascii=False)}\n```"


def raw_text(content: Any) -> str:
    """Return a response as one text."""
    return "\n\n".join(text for _, text in as_turns(content, "assistant"))
