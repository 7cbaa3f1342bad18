"""The rows of a file of votes: which column is what, and what each row says.

One row is one vote (columns `annotator` and `vote`), or one item with a list of votes (column `votes`). An item is
named by its `id`, or by its prompt and two answers. Prompt and answers may have the names that training reads.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tiltlm.core.errors import ConfigError, DataError
from tiltlm.core.notes import Note
from tiltlm.data.accounting import Defect
from tiltlm.data.cache.fingerprints import digest
from tiltlm.data.data_settings import DataSettings
from tiltlm.data.files.text_files import Row
from tiltlm.data.labels.votes import NO_CHOICE, TIE, FoundVote, VotedItem
from tiltlm.data.rows import cells
from tiltlm.data.rows.formats.catalog import recognise
from tiltlm.data.rows.formats.format import plain_name
from tiltlm.data.rows.roles import ALL_ROLES

NAMES: Mapping[str, tuple[str, ...]] = {
    "annotator": (
        *("annotator", "annotator_id", "rater", "rater_id", "worker", "worker_id", "labeler", "labeller", "user_id"),
        *("judge", "judge_id"),
    ),
    "vote": ("vote", "winner", "choice", "verdict", "preferred_side"),
    "votes": ("votes", "annotations"),
    "left": ("left", "left_answer", "shown_left"),
    "id": ("id", "item", "item_id", "pair_id", "task_id"),
}
"""Role → names of its column, compared as `plain_name` gives them. `data.columns` may name others."""
TEXTS = ("prompt", "answer_a", "answer_b", "chosen", "rejected", "system", "source")
"""Roles that are read as in other data."""

LEFT, RIGHT = 0, 1
SIDES = {"left": LEFT, "right": RIGHT}
TIES = frozenset({"tie", "draw", "equal", "same", "both_good", "no_preference"})
BAD = frozenset({"both_bad", "bothbad", "tie_bothbad", "tie_both_bad", "neither", "bad"})
SKIPS = frozenset({"skip", "skipped", "unsure"})


@dataclass(frozen=True)
class VoteColumns:
    """The columns of a file of votes."""

    roles: Mapping[str, str]
    """Role → column."""
    answers: Mapping[str, int]
    """Name that a vote may give an answer → 0 or 1: a, b, and the names of the columns."""
    notes: tuple[Note, ...] = ()

    def value(self, row: Mapping[str, Any], role: str) -> Any:
        """Return the value of a role; None if it is missing or an empty cell."""
        value = row.get(self.roles[role]) if role in self.roles else None
        return None if value == "" else value


def find_columns(first_seen: Mapping[str, str], settings: DataSettings) -> VoteColumns:
    """Find the columns of a file of votes. Columns without a role are noted.

    Args:
        first_seen: Each column → location of the first row that has it.
        settings: Of these, `columns` and `ignore` are used.

    Raises:
        ConfigError: `columns` names a role that votes do not have.
        DataError: A column is missing.
    """
    given = _given(first_seen, settings)
    usable = [column for column in first_seen if column not in settings.ignore and column not in given.values()]
    roles = dict(given)
    for role, names in NAMES.items():
        found = [column for name in names for column in usable if plain_name(column) == name]
        if role not in roles and found:
            roles[role] = found[0]
    rest = {column: column for column in usable if column not in roles.values()}
    read = recognise({role: column for role, column in given.items() if role in TEXTS} | rest, ALL_ROLES)
    for column in rest:
        role = read.roles.get(column, column)
        if role in TEXTS and role not in roles:
            roles[role] = column
    if "answer_a" not in roles and {"chosen", "rejected"} <= roles.keys():
        roles |= {"answer_a": roles["chosen"], "answer_b": roles["rejected"]}
    _check(roles, first_seen)
    unused = sorted(first_seen.keys() - set(roles.values()))
    notes = [Note(f"columns not used: {', '.join(unused)}", "unused_columns")] if unused else []
    return VoteColumns(roles, _answer_names(roles), tuple(notes))


def _given(first_seen: Mapping[str, str], settings: DataSettings) -> dict[str, str]:
    known = {*NAMES, *TEXTS}
    for role, column in settings.columns.items():
        if role not in known:
            raise ConfigError(
                f"data.columns.{role}: votes have no such role; the roles are {', '.join(sorted(known))}",
                code="unknown_name",
                key=f"data.columns.{role}",
            )
        if column not in first_seen:
            raise DataError(
                f"data.columns.{role}={column}: no such column; the data has {', '.join(sorted(first_seen))}",
                code="no_such_column",
                key=f"data.columns.{role}",
            )
    for column in settings.ignore:
        if column not in first_seen:
            raise DataError(f"data.ignore=[{column}]: no such column", code="no_such_column", key="data.ignore")
    return dict(settings.columns)


def _check(roles: Mapping[str, str], first_seen: Mapping[str, str]) -> None:
    """Raise if the columns do not say who voted on what, and how."""
    has_votes = "votes" in roles or {"annotator", "vote"} <= roles.keys()
    has_item = "id" in roles or {"answer_a", "answer_b"} <= roles.keys()
    if has_votes and has_item:
        return
    missing = (
        "the columns `annotator` and `vote`, or `votes`" if not has_votes else "`id`, or the prompt and two answers"
    )
    role = ("annotator" if "annotator" not in roles else "vote") if not has_votes else "id"
    raise DataError(
        f"a file of votes needs {missing}; the data has {', '.join(sorted(first_seen))}. If a column has another name: "
        f"data.columns.{role}=COLUMN",
        code="missing_column",
        key=f"data.columns.{role}",
    )


def _answer_names(roles: Mapping[str, str]) -> dict[str, int]:
    """Return what a vote may call the two answers."""
    columns = [plain_name(roles[role]) for role in ("answer_a", "answer_b") if role in roles]
    named = {name: k for k, name in enumerate(columns)} if len(set(columns)) == 2 else {}
    ends = [name[-1:] for name in columns]
    numbers = {end: k for k, end in enumerate(ends)} if set(ends) in ({"0", "1"}, {"1", "2"}) else {}
    return {"a": 0, "b": 1, **numbers, **named}


def votes_of(row: Row, columns: VoteColumns, items: dict[str, VotedItem]) -> Iterator[FoundVote]:
    """Yield the votes of a row, and add its item to `items` if it is new.

    Raises:
        Defect: The row cannot be read. None of its votes is yielded then.
    """
    if row.defect:
        raise row.defect
    item, is_mirrored = _item(row.values, columns, items)
    if "votes" in columns.roles:
        entries = cells.items("votes", columns.value(row.values, "votes") or [])
        found = [_entry(entry, item, columns) for entry in entries]
    else:
        who, vote = (columns.value(row.values, role) for role in ("annotator", "vote"))
        found = [_vote(item, who, vote, columns.value(row.values, "left"), columns)]
    items[item.id] = item
    yield from (_mirrored(vote) if is_mirrored else vote for vote in found)


def _item(row: Mapping[str, Any], columns: VoteColumns, items: Mapping[str, VotedItem]) -> tuple[VotedItem, bool]:
    """Return the item of a row, and True if the row has its two answers in the other order."""
    a, b = (_answer(columns, row, role) for role in ("answer_a", "answer_b"))
    prompt = columns.value(row, "prompt")
    prompt = None if prompt is None else cells.content("prompt", prompt)
    if a is not None and a == b:
        raise Defect("identical_responses", "the two answers are equal")
    name = columns.value(row, "id")
    if name is None and (a is None or b is None):
        raise Defect("missing_value", "the row has neither an id nor two answers")
    key = str(name) if name is not None else _content_key(prompt, a, b)
    source, system = (str(columns.value(row, role) or "") for role in ("source", "system"))
    item = VotedItem(key, prompt, a, b, source, system)
    known = items.get(key)
    if known is None or not item.has_text or not known.has_text:
        return item if known is None or item.has_text else known, False
    if (known.prompt, {_text(known.a), _text(known.b)}) != (prompt, {_text(a), _text(b)}):
        raise Defect("wrong_type", f"id {key} has another prompt or other answers than in an earlier row")
    return known, known.a != a


def _answer(columns: VoteColumns, row: Mapping[str, Any], role: str) -> Any:
    value = columns.value(row, role)
    return None if value is None else cells.content(role, value)


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _content_key(prompt: Any, a: Any, b: Any) -> str:
    """Return the id of an item that has none: a digest of prompt and answers, which does not depend on their order."""
    texts = [_text(prompt), *sorted((_text(a), _text(b)))]
    return digest(*(text.encode("utf-8", "surrogatepass") for text in texts)).hex()


def _entry(entry: Any, item: VotedItem, columns: VoteColumns) -> FoundVote:
    """Read one vote of a list: `{annotator, vote}`, with `left` where it is known."""
    if not isinstance(entry, Mapping):
        raise cells.wrong_type("votes", entry, "a vote: {annotator: ..., vote: ...}")
    named = {plain_name(str(key)): value for key, value in entry.items()}
    who, vote, left = (
        next((named[name] for name in NAMES[role] if named.get(name) not in (None, "")), None)
        for role in ("annotator", "vote", "left")
    )
    return _vote(item, who, vote, left, columns)


def _vote(item: VotedItem, who: Any, vote: Any, left: Any, columns: VoteColumns) -> FoundVote:
    """Return a vote as numbers.

    Raises:
        Defect: It is missing, or says nothing that is known.
    """
    if who is None:
        raise Defect("missing_value", "the annotator is missing")
    if vote is None:
        raise Defect("missing_value", "the vote is missing")
    name = _name(vote)
    shown = -1
    if left is not None:
        shown = columns.answers.get(_name(left), -1)
        if shown < 0:
            raise cells.wrong_type("left", left, f"the answer on the left: one of {', '.join(columns.answers)}")
    if name in SIDES:
        shown = max(shown, 0)  # without another word, the first answer stands on the left
        return FoundVote(item.id, str(who), shown if SIDES[name] == LEFT else 1 - shown, shown)
    for part in (name, name.rpartition("_")[2]):  # "model_a" is a
        if part in columns.answers:
            return FoundVote(item.id, str(who), columns.answers[part], shown)
    if name in BAD or name in TIES:
        return FoundVote(item.id, str(who), TIE, shown, name in BAD)
    if name in SKIPS:
        return FoundVote(item.id, str(who), NO_CHOICE, shown)
    known = f"left, right, tie, both_bad, skip, {', '.join(columns.answers)}"
    raise cells.wrong_type("vote", vote, f"one of {known}")


def _name(value: Any) -> str:
    """Return a cell as names are compared. A whole number is the same as 1, 1.0 and "1"."""
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        number: float = float(value)
        return str(int(number)) if number.is_integer() else repr(number)
    return plain_name(str(value))


def _mirrored(vote: FoundVote) -> FoundVote:
    """Return a vote whose row has the two answers in the other order than its item."""
    choice = 1 - vote.choice if vote.choice in (0, 1) else vote.choice
    left = 1 - vote.left if vote.left >= 0 else -1
    return FoundVote(vote.item, vote.annotator, choice, left, vote.is_bad)
