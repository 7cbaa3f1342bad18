"""Votes as numbers: which annotator preferred which of two answers, or neither, and which answer stood on the left.

The result does not depend on the order of items: they are sorted by their ids. If an annotator voted on an item
several times, the last vote counts, and the earlier ones only show how consistent the annotator is.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tiltlm.core.notes import Note
from tiltlm.data.accounting import Accounting

Ints = NDArray[np.int64]

CHOICES = ("a", "b", "tie")
"""What a vote says, by its number: answer a is better, answer b is, or neither."""
A, B, TIE = range(3)
NO_CHOICE = -1
"""The choice of a vote in which the annotator skipped the item."""


@dataclass(frozen=True)
class ItemFacts:
    """What a labelling project knows of an item beside its votes: of its answers a and b, in this order."""

    models: tuple[str, str] = ("", "")
    """Who wrote them."""
    sampling: tuple[Mapping[str, Any], Mapping[str, Any]] = field(default_factory=lambda: ({}, {}))
    """How they were drawn."""
    strengths: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    """How much better each is, 1 to 3, by the votes for it that say so."""
    guidelines: tuple[int, ...] = ()
    """Versions of the guidelines that annotators read."""


@dataclass(frozen=True)
class VotedItem:
    """Two answers that annotators compared."""

    id: str
    prompt: Any = None
    a: Any = None
    """The first answer; None if the rows have only the id."""
    b: Any = None
    source: str = ""
    system: str = ""
    decision: int = NO_CHOICE
    """What an adjudicator decided, in place of the votes: `A`, `B` or `TIE`; `NO_CHOICE` without a decision."""
    facts: ItemFacts | None = None

    @property
    def has_text(self) -> bool:
        """True if both answers are known."""
        return self.a is not None and self.b is not None


@dataclass(frozen=True)
class FoundVote:
    """One vote as a row has it."""

    item: str
    annotator: str
    choice: int
    """0: answer a, 1: answer b, 2: neither, −1: skipped."""
    left: int = -1
    """0 or 1: the answer on the left; −1 if it is not known."""
    is_bad: bool = False


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
