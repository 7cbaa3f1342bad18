"""Votes as numbers: which annotator preferred which of two answers, or neither, and which answer stood on the left.

The result does not depend on the order of items: they are sorted by their ids. If an annotator voted on an item
several times, the last vote counts, and the earlier ones only show how consistent the annotator is.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tiltlm.core.errors import DataError
from tiltlm.core.notes import Note
from tiltlm.data.accounting import Accounting
from tiltlm.data.data_settings import DataSettings
from tiltlm.data.dataset import refuse_unreadable, survey
from tiltlm.data.files.sources import read_rows
from tiltlm.data.labels.vote_rows import FoundVote, VotedItem, find_columns, votes_of
from tiltlm.data.loader import count_defect

Ints = NDArray[np.int64]

CHOICES = ("a", "b", "tie")
"""What a vote says, by its number: answer a is better, answer b is, or neither."""
A, B, TIE = range(3)


class Repeat(NamedTuple):
    """Two votes of one annotator on one item, the second right after the first one."""

    annotator: int
    item: int
    is_equal: bool


@dataclass(frozen=True, eq=False)
class Votes:
    """The votes that count: at most one of an annotator on an item."""

    items: tuple[VotedItem, ...]
    """Sorted by id. Items without a vote that says something are here too."""
    annotators: tuple[str, ...]
    """Sorted."""
    item: Ints
    """[V] position of the item of each vote, ascending."""
    annotator: Ints
    """[V] position of its annotator, ascending within an item."""
    choice: Ints
    """[V] `A`, `B` or `TIE`. Both answers bad is a tie."""
    left: Ints
    """[V] `A` or `B`, the answer that was shown on the left; −1 where it is not known."""
    is_bad: NDArray[np.bool_]
    """[V] the annotator called both answers bad."""
    num_skips: int = 0
    """Votes in which the annotator skipped the item. They say nothing, and are not among the V."""
    repeats: tuple[Repeat, ...] = ()
    accounting: Accounting = field(default_factory=Accounting)
    notes: tuple[Note, ...] = ()

    def counts(self, weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """Return [items, 3] how many votes each item has for a, for b and for a tie.

        Args:
            weights: [V] what each vote counts. None: 1.
        """
        flat = np.bincount(self.item * 3 + self.choice, weights, minlength=3 * len(self.items))
        return flat.reshape(-1, 3).astype(np.float64)

    def without(self, annotator: int) -> "Votes":
        """Return the votes of all other annotators. Items, and the positions of annotators, stay as they are."""
        kept = self.annotator != annotator
        arrays = {name: getattr(self, name)[kept] for name in ("item", "annotator", "choice", "left", "is_bad")}
        return Votes(self.items, self.annotators, **arrays)

    @property
    def sides_vary(self) -> bool:
        """True if each of the two answers stood on the left in some votes."""
        return {A, B} <= set(self.left[self.left >= 0].tolist())


def read_votes(settings: DataSettings) -> Votes:
    """Read a file of votes: one row a vote, or one row an item with the list of its votes.

    Args:
        settings: Where the votes are. `columns` may name the columns `annotator`, `vote`, `left` and `votes` too.

    Raises:
        ConfigError: A setting has no effect.
        DataError: A column is missing, too many rows cannot be read, or no vote says anything.
    """
    source = read_rows(settings)
    first_seen, _ = survey([source])
    if not first_seen:
        refuse_unreadable(source)
    columns = find_columns(first_seen, settings)
    accounting = Accounting()
    items: dict[str, VotedItem] = {}
    found: list[FoundVote] = []
    for row in source:
        accounting.total += 1
        with count_defect(accounting, row.location):
            found += votes_of(row, columns, items)
    accounting.check_limit(settings.max_bad, settings.on_bad)
    if not any(vote.choice >= 0 for vote in found):
        raise DataError("no vote prefers an answer or calls a tie", code="no_rows_left", key="data.train")
    return collect(found, items, accounting, (*columns.notes, *source.notes))


def collect(
    found: Sequence[FoundVote],
    items: Mapping[str, VotedItem],
    accounting: Accounting | None = None,
    notes: Iterable[Note] = (),
) -> Votes:
    """Return votes as sorted arrays, of each annotator and item the last one.

    Args:
        found: Votes in the order in which they were given.
        items: Items by id.
        accounting: Counts of the rows that were read.
        notes: What the user must know.
    """
    names, annotators = sorted(items), sorted({vote.annotator for vote in found})
    place = {name: k for k, name in enumerate(names)}
    person = {name: k for k, name in enumerate(annotators)}
    last: dict[tuple[int, int], FoundVote] = {}
    repeats: list[Repeat] = []
    for vote in found:
        key = (place[vote.item], person[vote.annotator])
        if vote.choice < 0:
            continue
        if key in last:
            repeats.append(Repeat(key[1], key[0], last[key].choice == vote.choice))
        last[key] = vote
    keys = sorted(last)
    kept = [last[key] for key in keys]
    return Votes(
        items=tuple(items[name] for name in names),
        annotators=tuple(annotators),
        item=np.array([key[0] for key in keys], dtype=np.int64),
        annotator=np.array([key[1] for key in keys], dtype=np.int64),
        choice=np.array([vote.choice for vote in kept], dtype=np.int64),
        left=np.array([vote.left for vote in kept], dtype=np.int64),
        is_bad=np.array([vote.is_bad for vote in kept], dtype=np.bool_),
        num_skips=Counter(vote.choice < 0 for vote in found)[True],
        repeats=tuple(sorted(repeats)),
        accounting=Accounting() if accounting is None else accounting,
        notes=tuple(notes),
    )


def as_votes(table: Iterable[tuple[str, str, str]], left: Mapping[tuple[str, str], int] | None = None) -> Votes:
    """Return votes from (item, annotator, choice) with the choices a, b and tie; for a notebook.

    Args:
        table: The votes.
        left: (item, annotator) → `A` or `B`, the answer that was shown on the left.
    """
    sides = left or {}
    found = [FoundVote(i, who, CHOICES.index(choice), sides.get((i, who), -1)) for i, who, choice in table]
    return collect(found, {vote.item: VotedItem(vote.item) for vote in found})
