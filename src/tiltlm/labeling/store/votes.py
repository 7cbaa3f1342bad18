"""The votes of a project as numbers, for agreement and labels."""

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, text

from tiltlm.data.labels import Votes
from tiltlm.data.labels.vote_rows import NO_CHOICE, TIE, FoundVote, VotedItem
from tiltlm.data.labels.votes import A, B, collect

CHOICES = {"a": A, "b": B, "tie": TIE, "both_bad": TIE, "skip": NO_CHOICE}

_ROWS = text(
    'SELECT pair_key, source, prompt, system, a, b, annotator, choice, "left" FROM vote_row WHERE kind IN :kinds '
    "ORDER BY is_repeat DESC, event_id"
).bindparams(bindparam("kinds", expanding=True))
"""Repeats come first: of two votes of a person on a pair, `collect` counts the last, and that is the first one then."""


def read_votes(connection: Connection, *, kinds: Sequence[str] = ("task",)) -> Votes:
    """Return the votes that count now.

    A person's first vote on a pair is the one that counts for its label. The vote on the repeat only tells how
    consistent the person is.

    Args:
        connection: A transaction that reads.
        kinds: Of the pairs: task, gold, calibration.

    Returns:
        The votes. Pairs that nobody voted on or skipped are not among the items.
    """
    items: dict[str, VotedItem] = {}
    found = []
    for row in connection.execute(_ROWS, {"kinds": list(kinds)}):
        if row.pair_key not in items:
            items[row.pair_key] = _item(row)
        left = -1 if row.left is None else CHOICES[row.left]
        choice = CHOICES[row.choice]
        found.append(FoundVote(row.pair_key, row.annotator, choice, left, row.choice == "both_bad"))
    return collect(found, items)


def _item(row: Any) -> VotedItem:
    prompt, a, b, system = (json.loads(text) for text in (row.prompt, row.a, row.b, row.system))
    return VotedItem(row.pair_key, prompt, a, b, source=row.source, system=system)
