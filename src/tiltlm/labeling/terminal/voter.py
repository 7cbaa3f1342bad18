"""What a person at a terminal does with the database: each request is one transaction, as in the web app."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from sqlalchemy import Connection, func, select

from tiltlm.core.errors import ConfigError
from tiltlm.labeling.queue.assignments import Assignment
from tiltlm.labeling.queue.ballots import Ballot, Choice, Counted, undo, vote
from tiltlm.labeling.queue.work import Undone, Work, read_undone, side_of, take_work
from tiltlm.labeling.store.audit import COMMAND_LINE, write_audit
from tiltlm.labeling.store.database import reading, writing
from tiltlm.labeling.store.people import Person, add_person, check_name, find_person
from tiltlm.labeling.store.projects import Project, read_guidelines
from tiltlm.labeling.store.tables import assignment, event, pair


@dataclass(frozen=True)
class Feedback:
    """The known answer of a calibration pair."""

    is_right: bool
    answer: Choice
    """left, right or tie."""
    explanation: str


@dataclass(frozen=True)
class Guidelines:
    """A version of the guidelines."""

    version: int
    text: str


def enter(project: Project, name: str) -> Person:
    """Return the person who labels; somebody new is added as an annotator.

    Raises:
        ConfigError: The name cannot be used, or the person is no annotator, or was revoked.
    """
    name = check_name(name)
    with writing(project.engine) as connection:
        known = find_person(connection, name)
        if known is None:
            known = add_person(connection, name)
            write_audit(connection, COMMAND_LINE, "add", name=known.name, role=known.role)
    if known.role != "annotator":
        raise ConfigError(
            f"{name} is {known.role} of this project, and only annotators vote; label under another name: --as NAME",
            code="forbidden",
            key="--as",
        )
    _refuse_revoked(known)
    return known


def _refuse_revoked(who: Person | None) -> None:
    if who is None or not who.is_active:
        raise ConfigError(
            "this person was revoked; whoever runs the project can let them in again: tiltlm label invite NAME",
            code="revoked",
            key="--as",
        )


@dataclass(frozen=True)
class Reply:
    """What the database says to a request."""

    work: Work
    guideline_version: int
    """The newest one."""
    feedback: Feedback | None = None
    """After a vote on a calibration pair."""
    undone: Undone | None = None
    """After an undo."""


class Voter:
    """A person of a project, who votes."""

    def __init__(self, project: Project, who: Person, saved: Callable[[], None] = lambda: None) -> None:
        """Make a voter.

        Args:
            project: The project.
            who: The person.
            saved: Called after each vote and undo that the database has.
        """
        self.project = project
        self.who = who
        self.saved = saved

    def work(self) -> Reply:
        """Return what to work on."""
        with self._request() as connection:
            return self._reply(connection)

    def vote(self, ballot: Ballot) -> Reply:
        """Count a vote, and return what to work on. The same ballot again changes nothing.

        Raises:
            Refused: The vote does not count: `gone` or `voted`.
        """
        with self._request() as connection:
            counted = vote(connection, self.project, self.who, ballot)
            reply = replace(self._reply(connection), feedback=_feedback(counted))
        self.saved()
        return reply

    def undo(self, key: str) -> Reply:
        """Take back the newest vote, and return its pair first. The same key again changes nothing.

        Raises:
            Refused: There is nothing to take back, or the pair was given to others.
        """
        with self._request() as connection:
            given = undo(connection, self.project, self.who, key)
            reply = replace(self._reply(connection, given), undone=read_undone(connection, self.who, key, given))
        self.saved()
        return reply

    def guidelines(self) -> Guidelines:
        """Return the newest version of the guidelines."""
        with reading(self.project.engine) as connection:
            return Guidelines(*read_guidelines(connection))

    def seen_guidelines(self) -> int:
        """Return the newest version of the guidelines under which this person voted; 0: there is no vote yet."""
        newest = select(func.max(event.c.guideline_version)).where(event.c.person_id == self.who.id)
        with reading(self.project.engine) as connection:
            return connection.execute(newest).scalar() or 0

    def is_waiting(self) -> bool:
        """Return True if somebody else holds a pair that this person may get if it is not voted on in time."""
        mine = select(assignment.c.pair_id).where(assignment.c.person_id == self.who.id)
        held = (
            select(assignment.c.ticket)
            .join(pair, pair.c.id == assignment.c.pair_id)
            .where(
                assignment.c.event_id.is_(None),
                ~assignment.c.is_repeat,
                pair.c.kind == "task",
                pair.c.id.not_in(mine),
            )
        )
        with reading(self.project.engine) as connection:
            return connection.execute(held.limit(1)).first() is not None

    @contextmanager
    def _request(self) -> Iterator[Connection]:
        with writing(self.project.engine) as connection:
            _refuse_revoked(find_person(connection, self.who.name))
            yield connection

    def _reply(self, connection: Connection, first: Assignment | None = None) -> Reply:
        work = take_work(connection, self.project, self.who, first=first)
        return Reply(work, read_guidelines(connection)[0])


def _feedback(counted: Counted) -> Feedback | None:
    if counted.answer is None:
        return None
    answer = side_of(counted.answer, counted.assignment.left)
    return Feedback(bool(counted.is_right), answer, counted.explanation)
