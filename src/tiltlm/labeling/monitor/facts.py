"""What the numbers are made from: one reading of pairs, votes and people, without the texts."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, func, select

from tiltlm.data.labels.votes import TIE, A, B, FoundVote, VotedItem, Votes, collect
from tiltlm.labeling.project import ProjectSettings
from tiltlm.labeling.store.database import now
from tiltlm.labeling.store.people import Person, list_people
from tiltlm.labeling.store.tables import assignment, audit, event, guideline, pair, person, response

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NUMBERS = {"a": A, "b": B, "tie": TIE, "both_bad": TIE, "skip": -1}
"""Choice as the database has it → its number in `Votes`."""


@dataclass(frozen=True)
class PairFact:
    """A pair, without its texts."""

    id: int
    key: str
    kind: str
    prompt: int
    """Id of its prompt."""
    source: str
    models: tuple[str, str]
    """Who wrote a and b."""
    wanted: int
    """Votes that it shall get; 0 for gold and calibration."""
    assigned: int
    """Votes, and people who hold the pair now."""
    counts: tuple[int, int, int]
    """Votes for a, for b, for neither."""
    dispute: float
    is_random: bool
    place: int
    answer: str | None
    """The known answer of gold and calibration."""
    decided: str | None
    """The newest adjudication: a, b or tie."""

    @property
    def num_votes(self) -> int:
        """Votes that count."""
        return sum(self.counts)


@dataclass(frozen=True)
class VoteFact:
    """A vote that counts now, or a skip."""

    id: int
    pair: int
    """Id of its pair."""
    annotator: str
    is_repeat: bool
    choice: str
    left: str
    reason: str
    note: str
    dwell_ms: int | None
    server_time: float
    guideline_version: int | None

    @property
    def is_skip(self) -> bool:
        """True if the annotator did not judge the pair."""
        return self.choice == "skip"


@dataclass(frozen=True, eq=False)
class Facts:
    """One state of a project."""

    settings: ProjectSettings
    pairs: Mapping[int, PairFact]
    votes: tuple[VoteFact, ...]
    """In the order in which they were given."""
    people: tuple[Person, ...]
    guidelines: Mapping[int, float]
    """Version → when it was written."""
    lengths: Mapping[int, int]
    """Pair with votes → characters of its two responses."""
    time: float

    @cached_property
    def tasks(self) -> tuple[PairFact, ...]:
        """The pairs that are to be labelled, in the order of their ids."""
        return tuple(self.pairs[key] for key in sorted(self.pairs) if self.pairs[key].kind == "task")

    def of_kind(self, kind: str) -> list[VoteFact]:
        """Return the votes on pairs of one kind."""
        return [vote for vote in self.votes if self.pairs[vote.pair].kind == kind]

    @cached_property
    def task_votes(self) -> Votes:
        """The votes on tasks as numbers. Of a pair that a person saw twice, the first vote counts."""
        return self._collect(self.of_kind("task"))

    @cached_property
    def first_votes(self) -> Votes:
        """Of each task the first `overlap` votes, and all repeats and skips.

        Agreement is measured on these: votes that were asked because the first ones disagree are found on disputed
        pairs only, and would make agreement look higher than it is.
        """
        num: Counter[int] = Counter()
        kept = []
        for vote in self.of_kind("task"):
            if not (vote.is_repeat or vote.is_skip):
                num[vote.pair] += 1
                if num[vote.pair] > self.settings.overlap:
                    continue
            kept.append(vote)
        return self._collect(kept)

    def _collect(self, votes: Sequence[VoteFact]) -> Votes:
        found = [
            FoundVote(
                self.pairs[vote.pair].key,
                vote.annotator,
                NUMBERS[vote.choice],
                NUMBERS[vote.left],
                vote.choice == "both_bad",
            )
            for vote in sorted(votes, key=lambda vote: not vote.is_repeat)  # of two, `collect` counts the last one
        ]
        return collect(found, {one.key: VotedItem(one.key) for one in self.tasks})


def read_facts(connection: Connection, settings: ProjectSettings) -> Facts:
    """Read the state of a project.

    Args:
        connection: A transaction that reads.
        settings: Settings of the project.
    """
    decided = _read_decisions(connection)
    pairs = {row.id: _pair(row, decided.get(row.id)) for row in connection.execute(_pairs())}
    votes = tuple(_vote(row) for row in connection.execute(_votes()))
    versions = connection.execute(select(guideline.c.version, guideline.c.created_at).order_by(guideline.c.version))
    return Facts(
        settings=settings,
        pairs=pairs,
        votes=votes,
        people=tuple(list_people(connection)),
        guidelines={int(version): float(time) for version, time in versions},
        lengths={row[0]: int(row[1]) for row in connection.execute(_lengths())},
        time=now(),
    )


def state_of(connection: Connection) -> tuple[int, ...]:
    """Return numbers that change whenever numbers of a project may change."""
    newest: Callable[[Any], Any] = lambda column: select(func.coalesce(func.max(column), 0)).scalar_subquery()  # noqa: E731
    columns = (event.c.id, audit.c.id, pair.c.id, person.c.id, guideline.c.version)
    return tuple(int(value) for value in connection.execute(select(*map(newest, columns))).one())


def _pairs() -> Any:
    first, second = response.alias(), response.alias()
    return (
        select(pair, first.c.model.label("model_a"), second.c.model.label("model_b"))
        .join(first, first.c.id == pair.c.a_id)
        .join(second, second.c.id == pair.c.b_id)
    )


def _pair(row: Any, decided: str | None) -> PairFact:
    return PairFact(
        id=row.id,
        key=row.key,
        kind=row.kind,
        prompt=row.prompt_id,
        source=row.source,
        models=(row.model_a, row.model_b),
        wanted=row.wanted or 0,
        assigned=row.assigned,
        counts=(row.votes_a, row.votes_b, row.votes_tie),
        dispute=row.dispute,
        is_random=row.is_random,
        place=row.place,
        answer=row.answer,
        decided=decided,
    )


def _votes() -> Any:
    return (
        select(event, person.c.name)
        .join(assignment, assignment.c.event_id == event.c.id)
        .join(person, person.c.id == event.c.person_id)
        .order_by(event.c.id)
    )


def _vote(row: Any) -> VoteFact:
    return VoteFact(
        id=row.id,
        pair=row.pair_id,
        annotator=row.name,
        is_repeat=row.is_repeat,
        choice=row.choice,
        left=row.left,
        reason=row.reason,
        note=row.note,
        dwell_ms=row.dwell_ms,
        server_time=row.server_time,
        guideline_version=row.guideline_version,
    )


def num_chars(content: Any) -> Any:
    r"""Return the SQL expression of the number of characters of a content; `\uXXXX` counts as one."""
    escapes = (func.length(content) - func.length(func.replace(content, "\\u", ""))) / 2
    return func.length(content) - 5 * escapes


def _lengths() -> Any:
    first, second = response.alias(), response.alias()
    has_votes = select(assignment.c.pair_id).where(assignment.c.event_id.is_not(None))
    return (
        select(pair.c.id, num_chars(first.c.content) + num_chars(second.c.content))
        .join(first, first.c.id == pair.c.a_id)
        .join(second, second.c.id == pair.c.b_id)
        .where(pair.c.id.in_(has_votes))
    )


def _read_decisions(connection: Connection) -> dict[int, str]:
    newest = select(func.max(event.c.id)).where(event.c.kind == "adjudicate").group_by(event.c.pair_id)
    wanted = select(event.c.pair_id, event.c.choice).where(event.c.id.in_(newest))
    return {row[0]: row[1] for row in connection.execute(wanted)}
