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

from sqlalchemy import Connection, Select, and_, delete, func, insert, select, update

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


def _assignments(who: Person) -> Select[Any]:
    """Return the query of all that a person was given."""
    columns = (
        *(assignment.c.ticket, assignment.c.pair_id, pair.c.kind, assignment.c.is_repeat, assignment.c.is_random),
        *(assignment.c.event_id, assignment.c.given),
    )
    joined = assignment.join(pair, pair.c.id == assignment.c.pair_id)
    return select(*columns).select_from(joined).where(assignment.c.person_id == who.id)


def _assignment(project: Project, who: Person, row: Any) -> Assignment:
    side = left_side(project.secret, row.pair_id, who.id, is_repeat=row.is_repeat)
    return Assignment(row.ticket, row.pair_id, row.kind, row.is_repeat, row.is_random, side, row.event_id)


def lock_person(connection: Connection, who: Person) -> None:
    """Let one request of a person run at a time.

    Raises:
        Refused: `signed_out`: the person was revoked.
    """
    wanted = select(person.c.is_active).where(person.c.id == who.id)
    if not connection.execute(wanted.with_for_update(key_share=True)).scalar():
        raise Refused("this link was revoked; ask for a new one", code="signed_out")


def take(connection: Connection, project: Project, who: Person, *, limit: int = AHEAD) -> list[Assignment]:
    """Return the pairs that a person works on, in order, with new ones up to `limit`.

    Args:
        connection: A transaction that writes.
        project: The project.
        who: The person.
        limit: Pairs to hold at most.

    Returns:
        Fewer than `limit` where there is nothing for this person now. `num_left` and `num_held_by_others` say whether
        asking again later can help.

    Raises:
        Refused: `signed_out`: the person was revoked.
    """
    lock_person(connection, who)
    time = project.clock()
    expires_at = time + 60 * project.settings.lease_minutes
    own = update(assignment).where(assignment.c.person_id == who.id, IS_HELD)
    connection.execute(own.values(expires_at=expires_at))
    held = connection.execute(_assignments(who).where(IS_HELD)).all()
    found = [_assignment(project, who, row) for row in sorted(held, key=lambda row: row.given)]
    if len(found) >= limit:
        return found[:limit]
    _free_expired(connection, project.settings, who, time)
    last = select(func.max(assignment.c.given)).where(assignment.c.person_id == who.id)
    newest = connection.execute(last).scalar()
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
    connection.execute(insert(assignment).values({**values, "given_at": time, "expires_at": expires_at}))
    if not choice.is_repeat:
        more = update(pair).where(pair.c.id == choice.pair_id)
        connection.execute(more.values(assigned=pair.c.assigned + 1))
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
    wanted = _assignments(who).where(assignment.c.ticket == ticket)
    if lock:
        wanted = wanted.with_for_update(of=assignment, key_share=True)
    row = connection.execute(wanted).first()
    return None if row is None else _assignment(project, who, row)


def _is_mine(who: Person) -> Any:
    """Return the condition that a person was given a pair."""
    mine = assignment.alias("mine")
    return select(mine.c.pair_id).where(mine.c.pair_id == pair.c.id, mine.c.person_id == who.id).exists()


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
    wanted = select(pair.c.id).where(IS_KNOWN, pair.c.kind == kind, ~_is_mine(who)).order_by(pair.c.place).limit(1)
    found = connection.execute(wanted).scalar()
    return None if found is None else _Choice(found, kind)


def _choose_repeat(connection: Connection, settings: ProjectSettings, who: Person) -> _Choice | None:
    """Return a pair on which a person voted a while ago, once, and with a preference or tie; any of them as likely."""
    again = assignment.alias()
    has_repeat = select(again.c.pair_id).where(
        again.c.pair_id == assignment.c.pair_id, again.c.person_id == who.id, again.c.is_repeat
    )
    own = and_(assignment.c.person_id == who.id, assignment.c.event_id.is_not(None), ~assignment.c.is_skipped)
    votes = select(assignment.c.event_id).where(own).order_by(assignment.c.event_id.desc())
    newest = connection.execute(votes.offset(settings.repeat_gap).limit(1)).scalar()
    if newest is None:
        return None
    wanted = (
        select(assignment.c.pair_id)
        .join(pair, pair.c.id == assignment.c.pair_id)
        .where(own, ~assignment.c.is_repeat, assignment.c.event_id <= newest, ~IS_KNOWN, ~has_repeat.exists())
        .order_by(assignment.c.ticket)
        .limit(1)
    )
    found = connection.execute(wanted).scalar()
    return None if found is None else _Choice(found, "task", is_repeat=True)


def _choose_task(
    connection: Connection, settings: ProjectSettings, secret: bytes, who: Person, number: int
) -> _Choice | None:
    """Return the task for which a vote is most wanted."""
    tasks = select(pair.c.id).where(IS_OPEN, ~_is_mine(who))
    if settings.select != "random" and chance(secret, "slice", who.id, number) < settings.random_share:
        found = _first(connection, tasks.where(pair.c.is_random).order_by(*_order("random")))
        if found is not None:
            return _Choice(found, "task", is_random=True)
    found = _first(connection, tasks.order_by(*_order(settings.select)))
    return None if found is None else _Choice(found, "task", is_random=settings.select == "random")


def _order(selection: str) -> Sequence[Any]:
    """Return what decides which task comes first."""
    if selection == "random":
        return pair.c.assigned, pair.c.dispute.desc(), pair.c.place
    if selection == "disputed":
        return pair.c.dispute.desc(), pair.c.assigned, pair.c.place
    return pair.c.priority, pair.c.place


def _first(connection: Connection, tasks: Select[int]) -> int | None:
    """Return the first task, and lock it. PostgreSQL passes over those that another transaction has locked."""
    return connection.execute(tasks.limit(1).with_for_update(skip_locked=True, key_share=True)).scalar()


def _free_expired(connection: Connection, settings: ProjectSettings, who: Person, time: float) -> None:
    """Take back what others were given, whose time is over, so that it can be given again."""
    wanted = (
        select(assignment.c.ticket, assignment.c.pair_id, assignment.c.is_repeat)
        .join(pair, pair.c.id == assignment.c.pair_id)
        .where(IS_HELD, assignment.c.expires_at < time, assignment.c.person_id != who.id)
        .with_for_update(skip_locked=True, key_share=True)
    )
    rows = connection.execute(wanted).all()
    if not rows:
        return
    connection.execute(delete(assignment).where(assignment.c.ticket.in_([row.ticket for row in rows])))
    freed = Counter(row.pair_id for row in rows if not row.is_repeat)
    for pair_id, num in freed.items():
        connection.execute(update(pair).where(pair.c.id == pair_id).values(assigned=pair.c.assigned - num))
        set_wanted(connection, settings, pair_id)


def num_left(connection: Connection, who: Person) -> int:
    """Return how many tasks are left for a person: held without a vote, or open and not seen by this person.

    If it is above 0 and `take` returns none, another transaction had locked them at that moment: ask again.
    """
    num = func.count()
    is_own = and_(assignment.c.person_id == who.id, assignment.c.pair_id == pair.c.id)
    all_open = select(num).select_from(pair).where(IS_OPEN).scalar_subquery()
    seen = select(func.count(pair.c.id.distinct())).where(is_own, IS_OPEN).scalar_subquery()
    held = select(num).select_from(pair).where(is_own, IS_HELD, ~assignment.c.is_repeat, ~IS_KNOWN).scalar_subquery()
    return int(connection.execute(select(all_open - seen + held)).scalar_one())


def num_held_by_others(connection: Connection, who: Person) -> int:
    """Return how many tasks may become free for a person: others hold them, and may leave them without a vote."""
    held = select(assignment.c.pair_id).where(IS_HELD, ~assignment.c.is_repeat, assignment.c.person_id != who.id)
    wanted = select(func.count()).select_from(pair).where(pair.c.id.in_(held), ~IS_KNOWN, ~IS_OPEN, ~_is_mine(who))
    return int(connection.execute(wanted).scalar_one())
