"""What a person works on: the pairs with their texts, and how far the person is. No hint at which pairs are checks."""

from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from tiltlm.labeling.queue.assignments import AHEAD, Assignment, num_left, take
from tiltlm.labeling.queue.ballots import Choice, find_event
from tiltlm.labeling.queue.contents import Contents, read_contents
from tiltlm.labeling.store.people import Person
from tiltlm.labeling.store.projects import Project
from tiltlm.labeling.store.tables import assignment, event, pair


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
    voted = assignment.c.event_id.is_not(None) & ~assignment.c.is_skipped
    wanted = (
        select(pair.c.kind, assignment.c.is_repeat, func.count())
        .select_from(assignment)
        .join(pair, pair.c.id == assignment.c.pair_id)
        .where(assignment.c.person_id == who.id, voted)
        .group_by(pair.c.kind, assignment.c.is_repeat)
    )
    counts = {(kind, is_repeat): num for kind, is_repeat, num in connection.execute(wanted)}
    tasks = counts.get(("task", False), 0)
    checks = counts.get(("gold", False), 0) + counts.get(("task", True), 0)
    tasks_left = num_left(connection, who)
    share = project.settings.gold_share + project.settings.repeat_share
    expected = round((tasks + tasks_left) * share / (1 - share))
    left = tasks_left + max(0, expected - checks) if tasks_left else 0
    return Progress(tasks + checks, left, _num_lessons(connection, who))


def _num_lessons(connection: Connection, who: Person) -> int:
    """Return how many calibration pairs a person has not voted on, and not skipped."""
    seen = select(assignment.c.pair_id).where(assignment.c.person_id == who.id, assignment.c.event_id.is_not(None))
    wanted = select(func.count()).select_from(pair).where(pair.c.kind == "calibration", pair.c.id.not_in(seen))
    return int(connection.execute(wanted).scalar_one())


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
