"""What a vote, an undo and an adjudication do.

Each is one event. Each request has a key, and the same request sent again changes nothing.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sqlalchemy import Boolean, Connection, bindparam, insert, select, update

from tiltlm.core.errors import DataError
from tiltlm.labeling.queue.assignments import WHO, Assignment, Refused, find_assignment, lock_person
from tiltlm.labeling.queue.chance import other
from tiltlm.labeling.store.database import now, storable
from tiltlm.labeling.store.pairs import set_wanted
from tiltlm.labeling.store.people import Person
from tiltlm.labeling.store.projects import Project, read_guidelines
from tiltlm.labeling.store.tables import assignment, event, pair

Choice = Literal["left", "right", "tie", "both_bad", "skip"]
CHOICES: tuple[Choice, ...] = get_args(Choice)
"""What a person can say about a pair."""
Stored = Literal["a", "b", "tie", "both_bad", "skip"]
MAX_NOTE = 4000
MAX_KEY = 64
MAX_INTEGER = 2**31 - 1


@dataclass(frozen=True)
class Ballot:
    """What a person says about a pair."""

    ticket: str
    key: str
    """Names the request; the same key again is the same vote."""
    choice: Choice
    strength: int | None = None
    """1 to 3, where the project asks for it."""
    reason: str = ""
    """Of a skip."""
    note: str = ""
    dwell_ms: int | None = None
    client_time: float | None = None
    ui_version: str = ""
    guideline_version: int | None = None
    """The version that the person had before them; None: the newest one."""


@dataclass(frozen=True)
class Counted:
    """A vote that counts."""

    event_id: int
    assignment: Assignment
    choice: Stored
    is_new: bool
    """False if the same request was there before."""
    answer: str | None = None
    """The known answer, in calibration only: a | b | tie."""
    explanation: str = ""

    @property
    def is_right(self) -> bool | None:
        """In calibration, whether the vote is the known answer; both bad is a tie. None elsewhere."""
        if self.answer is None:
            return None
        return self.answer == ("tie" if self.choice == "both_bad" else self.choice)


# Statements of every vote are built once, as in `assignments`.
_EVENT_BY_KEY = select(event).where(event.c.person_id == WHO, event.c.key == bindparam("of_key"))
_ADD_EVENT = insert(event).returning(event.c.id)
_COUNT_EVENT = (
    update(assignment)
    .where(assignment.c.ticket == bindparam("named"))
    .values(event_id=bindparam("counts"), is_skipped=bindparam("is_skip", type_=Boolean))
)
_LOCK_PAIR = select(pair).where(pair.c.id == bindparam("this")).with_for_update(key_share=True)
_SET_SEATS = update(pair).where(pair.c.id == bindparam("this")).values(assigned=bindparam("seats"))
_SET_COUNTS = (
    update(pair)
    .where(pair.c.id == bindparam("this"))
    .values({name: bindparam(f"new_{name}") for name in ("votes_a", "votes_b", "votes_tie", "dispute")})
)


def stored_choice(choice: Choice, left: str) -> Stored:
    """Return a choice by response in place of side."""
    if choice in ("left", "right"):
        return left if choice == "left" else other(left)  # type: ignore[return-value]
    return choice  # type: ignore[return-value]


def vote(connection: Connection, project: Project, who: Person, ballot: Ballot) -> Counted:
    """Count a vote.

    Args:
        connection: A transaction that writes.
        project: The project.
        who: The person.
        ballot: What the person says.

    Raises:
        Refused: `gone`: the pair is not this person's, or was given to others. `voted`: another vote is there, or the
            key belongs to another request. `signed_out`: the person was revoked.
    """
    lock_person(connection, who)
    before = find_event(connection, who, ballot.key)
    given = find_assignment(connection, project, who, ballot.ticket, lock=True)
    if before is not None and before.kind != "vote":
        raise other_request()
    if given is None:
        raise Refused("this pair was given to somebody else meanwhile; the vote does not count", code="gone")
    if before is not None:
        if (before.pair_id, before.is_repeat) != (given.pair_id, given.is_repeat):
            raise other_request()
        return _counted(connection, given, before.id, before.choice, is_new=False)
    if given.event_id is not None:
        raise Refused("there is a vote on this pair already; undo it first", code="voted")
    values = _values(connection, project, ballot, given)
    event_id = connection.execute(_ADD_EVENT, {"person_id": who.id, **values}).scalar_one()
    is_skip = values["choice"] == "skip"
    connection.execute(_COUNT_EVENT, {"named": ballot.ticket, "counts": event_id, "is_skip": is_skip})
    if not given.is_repeat:
        _add_to_pair(connection, project, given.pair_id, values["choice"], 1)
    return _counted(connection, given, event_id, values["choice"], is_new=True)


def _values(connection: Connection, project: Project, ballot: Ballot, given: Assignment) -> dict[str, Any]:
    """Return the columns of the event of a vote. Numbers of the browser are cut to what the database can hold."""
    choice = stored_choice(ballot.choice, given.left)
    dwell_ms, client_time = ballot.dwell_ms, ballot.client_time
    return {
        "kind": "vote",
        "pair_id": given.pair_id,
        "is_repeat": given.is_repeat,
        "key": ballot.key,
        "choice": choice,
        "left": given.left,
        "strength": ballot.strength if choice in ("a", "b") else None,
        "reason": storable(ballot.reason) if choice == "skip" else "",
        "note": storable(ballot.note[:MAX_NOTE]),
        "dwell_ms": None if dwell_ms is None else min(max(dwell_ms, 0), MAX_INTEGER),
        "client_time": None if client_time is None or not math.isfinite(client_time) else client_time,
        "server_time": project.clock(),
        "ui_version": storable(ballot.ui_version),
        "guideline_version": ballot.guideline_version or read_guidelines(connection)[0],
        "is_random": given.is_random,
    }


def _counted(connection: Connection, given: Assignment, event_id: int, choice: Any, *, is_new: bool) -> Counted:
    answer, explanation = None, ""
    if given.kind == "calibration":
        wanted = select(pair.c.answer, pair.c.explanation).where(pair.c.id == given.pair_id)
        answer, explanation = connection.execute(wanted).one()
    return Counted(event_id, given, choice, is_new, answer, explanation)


def _add_to_pair(connection: Connection, project: Project, pair_id: int, choice: str, step: int) -> None:
    """Add a vote to the counts of a pair, or with step −1 take it back."""
    row = connection.execute(_LOCK_PAIR, {"this": pair_id}).one()
    if choice == "skip":
        connection.execute(_SET_SEATS, {"this": pair_id, "seats": row.assigned - step})
    else:
        column = "votes_tie" if choice in ("tie", "both_bad") else f"votes_{choice}"
        counts = {name: getattr(row, name) for name in ("votes_a", "votes_b", "votes_tie")}
        counts[column] += step
        values = {**counts, "dispute": dispute(*counts.values())}
        connection.execute(_SET_COUNTS, {"this": pair_id} | {f"new_{name}": value for name, value in values.items()})
    set_wanted(connection, project.settings, pair_id)


def dispute(a: int, b: int, tie: int) -> float:
    """Return how much votes disagree: the share of pairs of votes that differ; 0 with fewer than two votes."""
    num = a + b + tie
    return 0.0 if num < 2 else 1 - sum(k * (k - 1) for k in (a, b, tie)) / (num * (num - 1))


def undo(connection: Connection, project: Project, who: Person, key: str) -> Assignment:
    """Take back a person's newest vote; the pair is this person's again.

    Raises:
        Refused: `nothing_to_undo`: there is no vote. `voted`: the key belongs to another request. `gone`: it was a
            skip, and the pair has all its votes by now. `signed_out`: the person was revoked.
    """
    lock_person(connection, who)
    before = find_event(connection, who, key)
    if before is not None:
        return _undone(connection, project, who, before)
    wanted = (
        select(assignment.c.ticket, event.c.id, event.c.pair_id, event.c.is_repeat, event.c.choice)
        .join(event, event.c.id == assignment.c.event_id)
        .where(assignment.c.person_id == who.id)
        .order_by(event.c.id.desc())
        .limit(1)
    )
    row = connection.execute(wanted).first()
    if row is None:
        raise Refused("there is no vote to undo", code="nothing_to_undo")
    if row.choice == "skip" and not row.is_repeat:
        seats = select(pair.c.assigned, pair.c.wanted).where(pair.c.id == row.pair_id)
        assigned, limit = connection.execute(seats.with_for_update(key_share=True)).one()
        if limit is not None and assigned >= limit:
            raise Refused("others have judged this pair meanwhile; the skip stays", code="gone")
    time = project.clock()
    values = {"kind": "undo", "pair_id": row.pair_id, "person_id": who.id, "is_repeat": row.is_repeat, "key": key}
    connection.execute(insert(event).values({**values, "server_time": time, "undoes": row.id}))
    held = {"event_id": None, "is_skipped": False, "expires_at": time + 60 * project.settings.lease_minutes}
    connection.execute(update(assignment).where(assignment.c.ticket == row.ticket).values(held))
    if not row.is_repeat:
        _add_to_pair(connection, project, row.pair_id, row.choice, -1)
    found = find_assignment(connection, project, who, row.ticket)
    assert found is not None, "it is this person's"
    return found


def _undone(connection: Connection, project: Project, who: Person, before: Any) -> Assignment:
    """Return the pair that an earlier request of the same key gave back.

    Raises:
        Refused: `voted`: it was another request. `gone`: the pair was given to others since.
    """
    if before.kind != "undo":
        raise other_request()
    ticket = select(assignment.c.ticket).where(
        assignment.c.pair_id == before.pair_id,
        assignment.c.person_id == who.id,
        assignment.c.is_repeat == before.is_repeat,
    )
    found = find_assignment(connection, project, who, connection.execute(ticket).scalar() or "")
    if found is None:
        raise Refused("this pair was given to somebody else meanwhile", code="gone")
    return found


def other_request() -> Refused:
    """Return the error of a key that was used for something else."""
    return Refused("this key belongs to another request", code="voted", key="key")


def find_event(connection: Connection, who: Person, key: str) -> Any:
    """Return the event that a person's request with this key made; None if there is none.

    Raises:
        DataError: The key cannot be stored.
    """
    if not 1 <= len(key) <= MAX_KEY or storable(key) != key:
        raise DataError(f"the key of a request has 1 to {MAX_KEY} characters of text", code="bad_key", key="key")
    return connection.execute(_EVENT_BY_KEY, {"who": who.id, "of_key": key}).first()


def adjudicate(
    connection: Connection, who: Person, pair_id: int, choice: Literal["a", "b", "tie"], *, key: str, note: str = ""
) -> int:
    """Decide a pair: this label counts in place of the votes. The newest adjudication counts.

    Returns:
        The id of the event.

    Raises:
        Refused: `forbidden`: the person is an annotator. `voted`: the key belongs to another request. `signed_out`:
            the person was revoked.
        DataError: There is no such pair.
    """
    if who.role == "annotator":
        raise Refused("only an adjudicator or an admin decides pairs", code="forbidden")
    lock_person(connection, who)
    before = find_event(connection, who, key)
    if before is not None:
        if (before.kind, before.pair_id) != ("adjudicate", pair_id):
            raise other_request()
        return int(before.id)
    if connection.execute(select(pair.c.id).where(pair.c.id == pair_id)).scalar() is None:
        raise DataError(f"there is no pair {pair_id}", code="unknown_name", key="PAIR")
    values = {"kind": "adjudicate", "pair_id": pair_id, "person_id": who.id, "is_repeat": False, "key": key}
    values |= {"choice": choice, "note": storable(note[:MAX_NOTE]), "server_time": now()}
    return int(connection.execute(insert(event).values(values).returning(event.c.id)).scalar_one())
