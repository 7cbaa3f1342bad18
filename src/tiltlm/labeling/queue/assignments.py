"""Giving pairs to people: `take` returns what a person works on, and gives out new pairs.

All of it is one transaction. A pair is given by an `assignment` row, and `pair.assigned` counts those that matter; the
database refuses a number above `pair.wanted`. A row whose time is over stays until somebody else needs a pair, and
only its deletion lets the pair be given again. A late vote is therefore either counted or refused, and never one too
many, whatever clocks do.

Locks, in PostgreSQL (SQLite has one writer). A transaction locks in this order: its person, its own assignment, pairs.
It waits for the first two while it holds no pair. It waits for a pair in one place only, when a vote or an undo is
counted, and holds no other pair then. All that follows, which is freeing and giving, passes over what others have
locked. So a transaction that holds a pair never waits, and no circle of waiting transactions can form. Locks are
`FOR NO KEY UPDATE`: the foreign key of a new event does not wait for them.
"""

import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, Integer, and_, bindparam, delete, func, insert, select, update

from tiltlm.core.errors import DataError
from tiltlm.labeling.project import ProjectSettings
from tiltlm.labeling.queue.chance import Side, chance, left_side
from tiltlm.labeling.store.pairs import set_wanted
from tiltlm.labeling.store.people import Person
from tiltlm.labeling.store.projects import Project
from tiltlm.labeling.store.tables import IS_HELD, IS_KNOWN, IS_OPEN, assignment, pair, person

AHEAD = 2
"""Pairs that a person holds: the one on the screen and the next one, so that it is there at once."""


class Refused(DataError):
    """A request that cannot count. `code` says why: `gone`, `voted`, `nothing_to_undo`, `forbidden`, `signed_out`."""


@dataclass(frozen=True)
class Assignment:
    """A pair that is given to a person."""

    ticket: str
    """How the browser names it: 128 random bits, so nobody can guess that of another person."""
    pair_id: int
    kind: str
    is_repeat: bool
    is_random: bool
    """It was chosen from the random slice, in its order."""
    left: Side
    """The response on the left."""
    event_id: int | None = None
    """The vote that counts; None: not yet."""


class _Choice(NamedTuple):
    """A pair to be given."""

    pair_id: int
    kind: str
    is_repeat: bool = False
    is_random: bool = False


# Statements of every vote are built once: that takes SQLAlchemy twenty times as long as running one.
WHO = bindparam("who", type_=Integer)
IS_OWN = assignment.c.person_id == WHO
_LOCK_PERSON = select(person.c.is_active).where(person.c.id == WHO).with_for_update(key_share=True)
_GIVEN = (
    select(
        *(assignment.c.ticket, assignment.c.pair_id, pair.c.kind, assignment.c.is_repeat, assignment.c.is_random),
        *(assignment.c.event_id, assignment.c.given),
    )
    .select_from(assignment.join(pair, pair.c.id == assignment.c.pair_id))
    .where(IS_OWN)
)
_GIVEN_BY_TICKET = _GIVEN.where(assignment.c.ticket == bindparam("named"))
_LOCK_BY_TICKET = _GIVEN_BY_TICKET.with_for_update(of=assignment, key_share=True)
_HELD = _GIVEN.where(IS_HELD)
_RENEW = update(assignment).where(IS_OWN, IS_HELD).values(expires_at=bindparam("until"))
_NEWEST = select(func.max(assignment.c.given)).where(IS_OWN)
_GIVE = insert(assignment)
_ADD_SEATS = update(pair).where(pair.c.id == bindparam("this")).values(assigned=pair.c.assigned + bindparam("num"))
_OVER = (
    select(assignment.c.ticket, assignment.c.pair_id, assignment.c.is_repeat)
    .join(pair, pair.c.id == assignment.c.pair_id)
    .where(IS_HELD, assignment.c.expires_at < bindparam("time"), assignment.c.person_id != WHO)
    .with_for_update(skip_locked=True, key_share=True)
)
_mine = assignment.alias("mine")
IS_SEEN = select(_mine.c.pair_id).where(_mine.c.pair_id == pair.c.id, _mine.c.person_id == WHO).exists()
"""The person was given the pair."""
_FIRST_KNOWN = (
    select(pair.c.id).where(IS_KNOWN, pair.c.kind == bindparam("of_kind"), ~IS_SEEN).order_by(pair.c.place).limit(1)
)
_again = assignment.alias("again")
_HAS_REPEAT = select(_again.c.pair_id).where(
    _again.c.pair_id == assignment.c.pair_id, _again.c.person_id == WHO, _again.c.is_repeat
)
_IS_VOTED = and_(IS_OWN, assignment.c.event_id.is_not(None), ~assignment.c.is_skipped)
_VOTE_BEFORE = (
    select(assignment.c.event_id)
    .where(_IS_VOTED)
    .order_by(assignment.c.event_id.desc())
    .offset(bindparam("gap"))
    .limit(1)
)
_REPEATABLE = (
    select(assignment.c.pair_id)
    .join(pair, pair.c.id == assignment.c.pair_id)
    .where(
        *(_IS_VOTED, ~assignment.c.is_repeat, assignment.c.event_id <= bindparam("newest")),
        *(~IS_KNOWN, ~_HAS_REPEAT.exists()),
    )
    .order_by(assignment.c.ticket)
    .limit(1)
)
_ORDERS: dict[str, Sequence[Any]] = {
    "random": (pair.c.assigned, pair.c.dispute.desc(), pair.c.place),
    "disputed": (pair.c.dispute.desc(), pair.c.assigned, pair.c.place),
    "uncertain": (pair.c.priority, pair.c.place),
    "diverse": (pair.c.priority, pair.c.place),
}
# The first task, locked. PostgreSQL passes over those that another transaction has locked.
_FIRST = {
    name: select(pair.c.id)
    .where(IS_OPEN, ~IS_SEEN)
    .order_by(*order)
    .limit(1)
    .with_for_update(skip_locked=True, key_share=True)
    for name, order in _ORDERS.items()
}
_FIRST_OF_SLICE = _FIRST["random"].where(pair.c.is_random)
_own_pair = and_(IS_OWN, assignment.c.pair_id == pair.c.id)
_LEFT = select(
    select(func.count()).select_from(pair).where(IS_OPEN).scalar_subquery()
    - select(func.count(pair.c.id.distinct())).where(_own_pair, IS_OPEN).scalar_subquery()
    + select(func.count())
    .select_from(pair)
    .where(_own_pair, IS_HELD, ~assignment.c.is_repeat, ~IS_KNOWN)
    .scalar_subquery()
)


def _assignment(project: Project, who: Person, row: Any) -> Assignment:
    side = left_side(project.secret, row.pair_id, who.id, is_repeat=row.is_repeat)
    return Assignment(row.ticket, row.pair_id, row.kind, row.is_repeat, row.is_random, side, row.event_id)


def lock_person(connection: Connection, who: Person) -> None:
    """Let one request of a person run at a time.

    Raises:
        Refused: `signed_out`: the person was revoked.
    """
    if not connection.execute(_LOCK_PERSON, {"who": who.id}).scalar():
        raise Refused("this link was revoked; ask for a new one", code="signed_out")


def take(connection: Connection, project: Project, who: Person, *, limit: int = AHEAD) -> list[Assignment]:
    """Return the pairs that a person works on, in order, with new ones up to `limit`.

    Args:
        connection: A transaction that writes.
        project: The project.
        who: The person.
        limit: Pairs to hold at most.

    Returns:
        Fewer than `limit` where there is nothing for this person now. Later there may be: others hold pairs that they
        may leave or skip.

    Raises:
        Refused: `signed_out`: the person was revoked.
    """
    lock_person(connection, who)
    time = project.clock()
    expires_at = time + 60 * project.settings.lease_minutes
    connection.execute(_RENEW, {"who": who.id, "until": expires_at})
    held = connection.execute(_HELD, {"who": who.id}).all()
    found = [_assignment(project, who, row) for row in sorted(held, key=lambda row: row.given)]
    if len(found) >= limit:
        return found[:limit]
    _free_expired(connection, project.settings, who, time)
    newest = connection.execute(_NEWEST, {"who": who.id}).scalar()
    number = 0 if newest is None else newest + 1
    while len(found) < limit and (choice := _choose(connection, project, who, number)) is not None:
        found.append(_give(connection, project, who, choice, number, time, expires_at))
        number += 1
    return found


def _give(
    connection: Connection, project: Project, who: Person, choice: _Choice, number: int, time: float, expires_at: float
) -> Assignment:
    ticket = secrets.token_hex(16)
    values: dict[str, Any] = {"pair_id": choice.pair_id, "person_id": who.id, "is_repeat": choice.is_repeat}
    values |= {"is_random": choice.is_random, "ticket": ticket, "given": number}
    connection.execute(_GIVE, {**values, "given_at": time, "expires_at": expires_at})
    if not choice.is_repeat:
        connection.execute(_ADD_SEATS, {"this": choice.pair_id, "num": 1})
    side = left_side(project.secret, choice.pair_id, who.id, is_repeat=choice.is_repeat)
    return Assignment(ticket, choice.pair_id, choice.kind, choice.is_repeat, choice.is_random, side)


def find_assignment(
    connection: Connection, project: Project, who: Person, ticket: str, *, lock: bool = False
) -> Assignment | None:
    """Return a pair that a person was given, voted on or not; None if it is not (or no longer) this person's.

    Args:
        connection: A transaction.
        project: The project.
        who: The person.
        ticket: How the browser names it.
        lock: Keep others from taking it back, until the transaction ends.
    """
    row = connection.execute(_LOCK_BY_TICKET if lock else _GIVEN_BY_TICKET, {"who": who.id, "named": ticket}).first()
    return None if row is None else _assignment(project, who, row)


def _choose(connection: Connection, project: Project, who: Person, number: int) -> _Choice | None:
    """Return the next pair for a person; `number` counts what this person was given before."""
    settings, secret = project.settings, project.secret
    if (found := _first_known(connection, who, "calibration")) is not None:
        return found
    task = _choose_task(connection, settings, secret, who, number)
    draw = chance(secret, "insert", who.id, number)
    if task is None or draw >= settings.gold_share + settings.repeat_share:
        return task
    is_gold = draw < settings.gold_share
    known = _first_known(connection, who, "gold") if is_gold else _choose_repeat(connection, settings, who)
    return task if known is None else known


def _first_known(connection: Connection, who: Person, kind: str) -> _Choice | None:
    """Return a pair with a known answer that a person has not seen."""
    found = connection.execute(_FIRST_KNOWN, {"who": who.id, "of_kind": kind}).scalar()
    return None if found is None else _Choice(found, kind)


def _choose_repeat(connection: Connection, settings: ProjectSettings, who: Person) -> _Choice | None:
    """Return a pair on which a person voted a while ago, once, and with a preference or tie; any of them as likely."""
    newest = connection.execute(_VOTE_BEFORE, {"who": who.id, "gap": settings.repeat_gap}).scalar()
    if newest is None:
        return None
    found = connection.execute(_REPEATABLE, {"who": who.id, "newest": newest}).scalar()
    return None if found is None else _Choice(found, "task", is_repeat=True)


def _choose_task(
    connection: Connection, settings: ProjectSettings, secret: bytes, who: Person, number: int
) -> _Choice | None:
    """Return the task for which a vote is most wanted."""
    own = {"who": who.id}
    if settings.select != "random" and chance(secret, "slice", who.id, number) < settings.random_share:
        found = connection.execute(_FIRST_OF_SLICE, own).scalar()
        if found is not None:
            return _Choice(found, "task", is_random=True)
    found = connection.execute(_FIRST[settings.select], own).scalar()
    return None if found is None else _Choice(found, "task", is_random=settings.select == "random")


def _free_expired(connection: Connection, settings: ProjectSettings, who: Person, time: float) -> None:
    """Take back what others were given, whose time is over, so that it can be given again."""
    rows = connection.execute(_OVER, {"who": who.id, "time": time}).all()
    if not rows:
        return
    connection.execute(delete(assignment).where(assignment.c.ticket.in_([row.ticket for row in rows])))
    freed = Counter(row.pair_id for row in rows if not row.is_repeat)
    for pair_id, num in freed.items():
        connection.execute(_ADD_SEATS, {"this": pair_id, "num": -num})
        set_wanted(connection, settings, pair_id)


def num_left(connection: Connection, who: Person) -> int:
    """Return how many tasks are left for a person: held without a vote, or open and not seen by this person.

    If it is above 0 and `take` returns none, another transaction had locked them at that moment: ask again.
    """
    return int(connection.execute(_LEFT, {"who": who.id}).scalar_one())
