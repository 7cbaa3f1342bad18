"""The votes of a labelling project, from the rows of two views of its database.

`vote_row` has one row for each vote that counts, repeats and skips among them; `adjudication_row` has the newest
decision on each pair. Texts in them are JSON. Whoever reads the views, in SQLite or in PostgreSQL, gives their rows to
`read_project`.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import astuple, dataclass, field
from typing import Any

from tiltlm.data.labels.votes import CHOICES, NO_CHOICE, TIE, FoundVote, ItemFacts, VotedItem, Votes, collect

VOTE_COLUMNS = (
    *("event_id", "pair_key", "kind", "source", "prompt", "system", "a", "b", "model_a", "model_b"),
    *("sampling_a", "sampling_b", "answer", "annotator", "is_repeat", "choice", "left", "strength", "reason", "note"),
    *("dwell_ms", "server_time", "guideline_version", "ui_version", "is_random"),
)
"""Columns of the view `vote_row`."""
ADJUDICATION_COLUMNS = ("pair_key", "choice", "adjudicator", "note", "server_time")
"""Columns of the view `adjudication_row`."""
CHOICE = {**{name: k for k, name in enumerate(CHOICES)}, "both_bad": TIE, "skip": NO_CHOICE}
"""A choice as the views have it → as `Votes` has it."""


@dataclass
class _Pair:
    """What the votes on a pair say of it."""

    row: Mapping[str, Any]
    strengths: tuple[list[int], list[int]] = field(default_factory=lambda: ([], []))
    guidelines: set[int] = field(default_factory=set)

    def item(self, decision: int) -> VotedItem:
        """Return the pair as an item."""
        row = self.row
        texts = {name: json.loads(row[name]) for name in ("prompt", "system", "a", "b")}
        facts = ItemFacts(
            (row["model_a"], row["model_b"]),
            (json.loads(row["sampling_a"]), json.loads(row["sampling_b"])),
            (tuple(sorted(self.strengths[0])), tuple(sorted(self.strengths[1]))),
            tuple(sorted(self.guidelines)),
        )
        shown = (texts["prompt"], texts["a"], texts["b"], row["source"], texts["system"])
        return VotedItem(row["pair_key"], *shown, decision, facts)


def read_project(
    votes: Iterable[Mapping[str, Any]],
    adjudications: Iterable[Mapping[str, Any]] = (),
    *,
    exclude: Collection[str] = (),
) -> Votes:
    """Return the votes of a project. The first vote of a person on a pair counts; repeats only show consistency.

    Args:
        votes: Rows of `vote_row`, in any order.
        adjudications: Rows of `adjudication_row`; decisions on pairs without a vote are not used.
        exclude: Annotators whose votes are left out.
    """
    pairs: dict[str, _Pair] = {}
    found: list[tuple[bool, int, FoundVote]] = []
    for row in votes:
        if row["annotator"] in exclude:
            continue
        one = pairs.setdefault(row["pair_key"], _Pair(row))
        choice = CHOICE[row["choice"]]
        is_bad = row["choice"] == "both_bad"
        left = NO_CHOICE if row["left"] is None else CHOICE[row["left"]]
        vote = FoundVote(row["pair_key"], row["annotator"], choice, left, is_bad)
        found.append((not row["is_repeat"], row["event_id"], vote))  # `collect` counts the last vote of a person
        if row["guideline_version"] and choice != NO_CHOICE:
            one.guidelines.add(int(row["guideline_version"]))
        if row["strength"] and not row["is_repeat"] and choice in (0, 1):
            one.strengths[choice].append(int(row["strength"]))
    decisions = {row["pair_key"]: CHOICE[row["choice"]] for row in adjudications}
    items = {key: one.item(decisions.get(key, NO_CHOICE)) for key, one in pairs.items()}
    return collect([vote for *_, vote in sorted(found, key=lambda one: one[:2])], items)


def content_digest(votes: Votes) -> str:
    """Return the sha256 of everything in the votes that a label or its row depends on."""
    digest = hashlib.sha256()
    for item in votes.items:
        digest.update(json.dumps(astuple(item), sort_keys=True).encode() + b"\n")
    digest.update(json.dumps(votes.annotators).encode())
    for array in (votes.item, votes.annotator, votes.choice, votes.left, votes.is_bad):
        digest.update(array.astype("<i8").tobytes())
    return digest.hexdigest()
