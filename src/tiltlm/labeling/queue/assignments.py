"""Giving pairs to people: `take` returns what a person works on, and gives out new pairs.

All of it is one transaction. A pair is given by an `assignment` row, and `pair.assigned` counts those that matter; the
database refuses a number above `pair.wanted`. A row whose time is over stays until somebody else needs the pair, and
only its deletion lets the pair be given again. A late vote is therefore either counted or refused, and never one too
many, whatever clocks do.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, and_, delete, func, insert, or_, select, update

from tiltlm.labeling.project import ProjectSettings
from tiltlm.labeling.queue.chance import Side, chance, left_side
from tiltlm.labeling.store.database import now
from tiltlm.labeling.store.people import Person
from tiltlm.labeling.store.projects import Project
from tiltlm.labeling.store.tables import assignment, pair, person

AHEAD = 2
"""Pairs that a person holds: the one on the screen and the next one, so that it is there at once."""


@dataclass(frozen=True)
class Assignment:
    """A pair that is given to a person."""

    ticket: str
    """How the browser names it: 128 random bits, so nobody can guess that of another person."""
    pair_id: int
    kind: str
    is_repeat: bool
    is_random: bool
    left: Side
    """The response on the left."""


_COLUMNS = (
    *(assignment.c.ticket, assignment.c.pair_id, pair.c.kind, assignment.c.is_repeat, assignment.c.is_random),
    assignment.c.person_id,
)


def _assignment(project: Project, row: Any) -> Assignment:
    ticket, pair_id, kind, is_repeat, is_random, person_id = row
    side = left_side(project.secret, pair_id, person_id, is_repeat=is_repeat)
    return Assignment(ticket, pair_id, kind, is_repeat, is_random, side)


def lock_person(connection: Connection, who: Person) -> None:
    """Let one request of a person run at a time. SQLite has one writer anyway."""
    connection.execute(select(person.c.id).where(person.c.id == who.id).with_for_update())


def take(connection: Connection, project: Project, who: Person, *, limit: int = AHEAD) -> list[Assignment]:
    """Return the pairs that a person works on, in order, with new ones up to `limit`.

    Args:
        connection: A transaction that writes.
        project: The project.
        who: The person.
        limit: Pairs to hold at most.

    Returns:
        Fewer than `limit` where there is nothing left for this person now.
    """
    lock_person(connection, who)
    time = now()
    own = (assignment.c.person_id == who.id) & assignment.c.event_id.is_(None)
    expires_at = time + 60 * project.settings.lease_minutes
    connection.execute(update(assignment).where(own).values(expires_at=expires_at))
    found = _open(connection, project, who)
    while len(found) < limit:
        given = connection.execute(
            select(func.count()).select_from(assignment).where(assignment.c.person_id == who.id)
        ).scalar_one()
        choice = _choose(connection, project, who, given, time)
        if choice is None:
            break
        pair_id, is_repeat, is_random = choice
        values: dict[str, Any] = {"pair_id": pair_id, "person_id": who.id, "is_repeat": is_repeat}
        values |= {
            "is_random": is_random,
            "ticket": secrets.token_hex(16),
            "given": given,
            "given_at": time,
            "expires_at": expires_at,
        }
        connection.execute(insert(assignment).values(values))
        if not is_repeat:
            connection.execute(update(pair).where(pair.c.id == pair_id).values(assigned=pair.c.assigned + 1))
        found = _open(connection, project, who)
    return found[:limit]


def _open(connection: Connection, project: Project, who: Person) -> list[Assignment]:
    """Return the pairs that a person holds and has not voted on, in the order in which they were given."""
    wanted = (
        select(*_COLUMNS)
        .join(pair, pair.c.id == assignment.c.pair_id)
        .where(assignment.c.person_id == who.id, assignment.c.event_id.is_(None))
        .order_by(assignment.c.given)
    )
    return [_assignment(project, row) for row in connection.execute(wanted)]


def find_assignment(connection: Connection, project: Project, who: Person, ticket: str) -> Assignment | None:
    """Return a pair that a person was given, voted on or not; None if it is not (or no longer) this person's."""
    wanted = (
        select(*_COLUMNS)
        .join(pair, pair.c.id == assignment.c.pair_id)
        .where(assignment.c.ticket == ticket, assignment.c.person_id == who.id)
    )
    row = connection.execute(wanted).first()
    return None if row is None else _assignment(project, row)


def _choose(
    connection: Connection, project: Project, who: Person, given: int, time: float
) -> tuple[int, bool, bool] | None:
    """Return the next pair for a person: its id, and whether it is a repeat and from the random slice."""
    settings = project.settings
    mine = select(assignment.c.pair_id).where(assignment.c.person_id == who.id)
    lesson = select(pair.c.id).where(pair.c.kind == "calibration", pair.c.id.not_in(mine)).order_by(pair.c.place)
    if (found := connection.execute(lesson.limit(1)).scalar()) is not None:
        return found, False, False
    task = _choose_task(connection, settings, project.secret, who, given, time)
    if task is None:
        return None
    draw = chance(project.secret, "insert", who.id, given)
    if draw < settings.gold_share:
        gold = select(pair.c.id).where(pair.c.kind == "gold", pair.c.id.not_in(mine)).order_by(pair.c.place)
        if (found := connection.execute(gold.limit(1)).scalar()) is not None:
            return found, False, False
        return task
    has_repeat = draw < settings.gold_share + settings.repeat_share
    if has_repeat and (found := _choose_repeat(connection, settings, who, given)) is not None:
        return found, True, False
    return task


def _choose_repeat(connection: Connection, settings: ProjectSettings, who: Person, given: int) -> int | None:
    """Return a pair on which a person voted a while ago, once, and with a preference or tie."""
    again = assignment.alias()
    known = and_(again.c.pair_id == assignment.c.pair_id, again.c.person_id == who.id, again.c.is_repeat)
    wanted = (
        select(assignment.c.pair_id)
        .join(pair, pair.c.id == assignment.c.pair_id)
        .where(
            assignment.c.person_id == who.id,
            ~assignment.c.is_repeat,
            assignment.c.event_id.is_not(None),
            ~assignment.c.is_skipped,
            assignment.c.given < given - settings.repeat_gap,
            pair.c.kind == "task",
            ~select(again.c.pair_id).where(known).exists(),
        )
        .order_by(assignment.c.given)
        .limit(1)
    )
    return connection.execute(wanted).scalar()


def _choose_task(
    connection: Connection, settings: ProjectSettings, secret: bytes, who: Person, given: int, time: float
) -> tuple[int, bool, bool] | None:
    """Return the task for which a vote is most wanted, and free what others were given and left."""
    _free_expired(connection, who, time)
    mine = select(assignment.c.pair_id).where(assignment.c.person_id == who.id)
    is_free = and_(pair.c.kind == "task", pair.c.assigned < pair.c.wanted, pair.c.id.not_in(mine))
    tasks = select(pair.c.id).where(is_free)
    if settings.select != "random" and chance(secret, "slice", who.id, given) < settings.random_share:
        in_slice = tasks.where(pair.c.is_random).order_by(*_order("random"))
        if (found := _first(connection, in_slice)) is not None:
            return found, False, True
    found = _first(connection, tasks.order_by(*_order(settings.select)))
    return None if found is None else (found, False, settings.select == "random")


def _order(selection: str) -> Sequence[Any]:
    """Return what decides which task comes first."""
    if selection == "random":
        return pair.c.assigned, pair.c.dispute.desc(), pair.c.place
    if selection == "disputed":
        return pair.c.dispute.desc(), pair.c.assigned, pair.c.place
    return pair.c.priority, pair.c.place


def _first(connection: Connection, tasks: Select[int]) -> int | None:
    """Return the first task, and lock it. PostgreSQL passes over those that another transaction is giving out."""
    row = connection.execute(tasks.limit(1).with_for_update(skip_locked=True)).first()
    return None if row is None else row[0]


def _free_expired(connection: Connection, who: Person, time: float) -> None:
    """Take back what others were given, whose time is over, so that it can be given again."""
    over = and_(assignment.c.event_id.is_(None), assignment.c.expires_at < time, assignment.c.person_id != who.id)
    wanted = select(assignment.c.ticket, assignment.c.pair_id, assignment.c.is_repeat).where(over)
    rows = connection.execute(wanted.order_by(assignment.c.pair_id).with_for_update(skip_locked=True)).all()
    if not rows:
        return
    connection.execute(delete(assignment).where(assignment.c.ticket.in_([row[0] for row in rows])))
    for pair_id in (row[1] for row in rows if not row[2]):
        connection.execute(update(pair).where(pair.c.id == pair_id).values(assigned=pair.c.assigned - 1))


def num_left(connection: Connection, who: Person) -> int:
    """Return how many tasks are left for a person: held without a vote, or free."""
    mine = select(assignment.c.pair_id).where(assignment.c.person_id == who.id)
    held = select(assignment.c.pair_id).where(
        assignment.c.person_id == who.id, assignment.c.event_id.is_(None), ~assignment.c.is_repeat
    )
    is_free = and_(pair.c.assigned < pair.c.wanted, pair.c.id.not_in(mine))
    wanted = select(func.count()).select_from(pair).where(pair.c.kind == "task", or_(is_free, pair.c.id.in_(held)))
    return int(connection.execute(wanted).scalar_one())
