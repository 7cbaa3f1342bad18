"""What a person works on: the pairs with their texts, and how far the person is. No hint at which pairs are checks."""

from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from tiltlm.labeling.queue.assignments import AHEAD, IS_OWN, Assignment, num_left, take
from tiltlm.labeling.queue.ballots import Choice, find_event
from tiltlm.labeling.queue.contents import Contents, read_contents
from tiltlm.labeling.store.people import Person
from tiltlm.labeling.store.projects import Project
from tiltlm.labeling.store.tables import IS_KNOWN, assignment, event, pair

_POOL = select(pair.c.kind, func.count()).where(IS_KNOWN).group_by(pair.c.kind)
_columns = (pair.c.kind, assignment.c.is_repeat, assignment.c.is_skipped)
_SEEN = (
    select(*_columns, func.count())
    .select_from(assignment)
    .join(pair, pair.c.id == assignment.c.pair_id)
    .where(IS_OWN, assignment.c.event_id.is_not(None))
    .group_by(*_columns)
)


@dataclass(frozen=True)
class Progress:
    """How far a person is."""

    done: int
    """Own votes that count, without skips and calibration."""
    left: int
    """Pairs that this person will be shown, as far as known now."""
    calibration_left: int


@dataclass(frozen=True)
class Work:
    """What a person works on."""

    items: list[Contents]
    """The first is the current one."""
    progress: Progress


def take_work(connection: Connection, project: Project, who: Person, *, first: Assignment | None = None) -> Work:
    """Take pairs, and return them with their texts.

    Args:
        connection: A transaction that writes.
        project: The project.
        who: The person.
        first: A pair of this person that comes first, such as the one whose vote was taken back.
    """
    given = take(connection, project, who)
    if first is not None:
        given = [first, *(one for one in given if one.ticket != first.ticket)][:AHEAD]
    return Work(read_contents(connection, given), read_progress(connection, project, who))


def read_progress(connection: Connection, project: Project, who: Person) -> Progress:
    """Return how far a person is.

    Silent gold and repeats are expected in `left` before they come. If it counted tasks only, it would stand still
    after a vote on such a pair, and tell that the pair was a check.
    """
    settings = project.settings
    seen = _count_seen(connection, who)
    pool = {kind: int(num) for kind, num in connection.execute(_POOL)}
    voted = {(kind, is_repeat): num for (kind, is_repeat, is_skipped), num in seen.items() if not is_skipped}
    tasks, repeats, gold = (voted.get(one, 0) for one in (("task", False), ("task", True), ("gold", False)))
    tasks_left = num_left(connection, who)
    share = (tasks + tasks_left) / (1 - settings.gold_share - settings.repeat_share)
    expected = min(pool.get("gold", 0), round(settings.gold_share * share)) + round(settings.repeat_share * share)
    left = tasks_left + max(0, expected - repeats - gold) if tasks_left else 0
    lessons = sum(num for (kind, *_), num in seen.items() if kind == "calibration")
    return Progress(tasks + repeats + gold, left, pool.get("calibration", 0) - lessons)


def _count_seen(connection: Connection, who: Person) -> dict[tuple[str, bool, bool], int]:
    """Return on how many pairs a person voted, by kind, whether they were repeats, and whether they were skipped."""
    found = connection.execute(_SEEN, {"who": who.id})
    return {(kind, is_repeat, is_skipped): int(num) for kind, is_repeat, is_skipped, num in found}


@dataclass(frozen=True)
class Undone:
    """What a vote said that was taken back."""

    choice: Choice
    note: str


def read_undone(connection: Connection, who: Person, key: str, given: Assignment) -> Undone:
    """Return what the vote said that `undo` took back by the request with this key."""
    taken = find_event(connection, who, key)
    choice, note = connection.execute(select(event.c.choice, event.c.note).where(event.c.id == taken.undoes)).one()
    return Undone(side_of(choice, given.left), note)


def side_of(choice: str, left: str) -> Choice:
    """Return a choice as the person saw it: the opposite of `stored_choice`."""
    if choice in ("a", "b"):
        return "left" if choice == left else "right"
    return choice  # type: ignore[return-value]
