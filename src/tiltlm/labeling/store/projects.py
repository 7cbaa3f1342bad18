"""Making and opening a project: its settings, its secret, its guidelines."""

import json
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, insert, select, update

from tiltlm.core.errors import DataError
from tiltlm.labeling.project import ProjectSettings
from tiltlm.labeling.store.database import (
    engine_of,
    is_url,
    now,
    reading,
    shown,
    storable,
    use_write_ahead_log,
    writing,
)
from tiltlm.labeling.store.pairs import set_wanted
from tiltlm.labeling.store.revisions import check_known, find_revision, lock_tables, newest_revision, upgrade
from tiltlm.labeling.store.tables import guideline, project

DEFAULT_GUIDELINES = """\
Choose the response that you would rather get if you had written the prompt.

- Read both responses to the end before you vote.
- Being right and being helpful come before style. Longer is not better.
- **Tie** if you cannot say which one is better. **Both bad** if neither is of use.
- Skip what you cannot judge, and say why.
"""


@dataclass(frozen=True, eq=False)
class Project:
    """An open project. `with open_project(name) as project` closes its connections at the end; so does `close`."""

    engine: Engine
    name: str
    """The database as the user named it, without a password."""
    settings: ProjectSettings
    secret: bytes
    """Decides sides and what a person sees when; never shown."""
    clock: Callable[[], float] = now
    """Returns the time, in seconds since 1970."""

    def close(self) -> None:
        """Close the connections to the database."""
        self.engine.dispose()

    def __enter__(self) -> "Project":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def create_project(
    database: str,
    settings: ProjectSettings,
    *,
    guidelines: str = DEFAULT_GUIDELINES,
    plan: dict[str, Any] | None = None,
) -> Project:
    """Make a project in a new or empty database.

    Args:
        database: A file, or the URL of a PostgreSQL database.
        settings: Its settings.
        guidelines: Markdown that annotators read.
        plan: Where its pairs came from, as plain values.

    Raises:
        ConfigError: The database cannot be used.
        DataError: It holds a project already.
    """
    values = {"id": 1, "secret": secrets.token_hex(32), "settings": json.dumps(settings.as_dict())}
    with new_tables(database) as connection:
        connection.execute(insert(project).values({**values, "plan": json.dumps(plan or {}), "created_at": now()}))
        add_guidelines(connection, guidelines)
    return open_project(database)


@contextmanager
def new_tables(database: str) -> Iterator[Connection]:
    """Make the tables of a project in a new or empty database, and give the transaction to the block to fill them.

    Raises:
        ConfigError: The database cannot be used.
        DataError: It holds a project already.
    """
    with engine_of(database) as engine:
        with reading(engine) as connection:
            _require_empty(connection, database)
        use_write_ahead_log(engine)
        with writing(engine) as connection:
            lock_tables(connection)
            _require_empty(connection, database)  # another process may have made one
            upgrade(connection)
            yield connection


def _require_empty(connection: Connection, database: str) -> None:
    if find_revision(connection) is not None:
        raise DataError(f"{shown(database)} holds a project already", code="output_exists", key="database")


def open_project(database: str) -> Project:
    """Open a project. A database that an older version of tiltlm made is brought to the newest form.

    A copy of a SQLite file as it was is kept beside it then: `label.db.0001` for revision 0001.

    Raises:
        ConfigError: The database cannot be used.
        DataError: There is no project in it, or a newer version of tiltlm made it.
    """
    if not is_url(database) and not Path(database).is_file():
        raise DataError(
            f"{database}: no such file; `tiltlm label serve DATA --database {database}` makes it",
            code="no_such_path",
            key="database",
        )
    with ExitStack() as stack:
        engine = stack.enter_context(engine_of(database))
        with reading(engine) as connection:
            revision = revision_of_project(connection, database)
        use_write_ahead_log(engine)
        if revision != newest_revision():
            _bring_up(engine, database)
        with reading(engine) as connection:
            text, secret = connection.execute(select(project.c.settings, project.c.secret)).one()
        stack.pop_all()  # the project keeps the engine
    return Project(engine, shown(database), ProjectSettings.of(json.loads(text)), bytes.fromhex(secret))


def revision_of_project(connection: Connection, database: str) -> str:
    """Return the revision of a project.

    Raises:
        DataError: There is no project, or a newer version of tiltlm made it.
    """
    revision = find_revision(connection)
    if revision is None:
        raise DataError(f"{shown(database)} holds no labelling project", code="not_a_label_database", key="database")
    check_known(revision)
    return revision


def _bring_up(engine: Engine, database: str) -> None:
    """Bring a project to the newest revision, unless another process did meanwhile."""
    with writing(engine) as connection:
        lock_tables(connection)
        revision = revision_of_project(connection, database)
        if revision == newest_revision():
            return
        if not is_url(database):
            with (
                closing(sqlite3.connect(database)) as now_there,
                closing(sqlite3.connect(f"{database}.{revision}")) as kept,
            ):
                now_there.backup(kept)
        upgrade(connection)


def has_project(database: str) -> bool:
    """Return True if a database holds a project; False if it is empty, or the file does not exist.

    Raises:
        ConfigError: The database cannot be used.
        DataError: It holds something else.
    """
    if not is_url(database) and not Path(database).is_file():
        return False
    with engine_of(database) as engine, reading(engine) as connection:
        return find_revision(connection) is not None


def change_settings(connection: Connection, settings: ProjectSettings) -> None:
    """Store settings in place of those that a project has, and let each pair want votes as they say.

    A server that runs has the settings of its start. The random slice and the random order stay as they were when the
    pairs were added.
    """
    connection.execute(update(project).values(settings=json.dumps(settings.as_dict())))
    set_wanted(connection, settings)


def read_plan(connection: Connection) -> dict[str, Any]:
    """Return where the pairs of a project came from."""
    plan: dict[str, Any] = json.loads(connection.execute(select(project.c.plan)).scalar_one())
    return plan


def add_guidelines(connection: Connection, text: str) -> int:
    """Add a version of the guidelines, and return its number. The same text again makes no new version."""
    text = storable(text)
    version, known = read_guidelines(connection)
    if version and known == text:
        return version
    connection.execute(insert(guideline).values(version=version + 1, text=text, created_at=now()))
    return version + 1


_NEWEST = select(guideline.c.version, guideline.c.text).order_by(guideline.c.version.desc()).limit(1)


def read_guidelines(connection: Connection) -> tuple[int, str]:
    """Return the newest version of the guidelines and its text; 0 and "" if there are none."""
    row = connection.execute(_NEWEST).first()
    return (0, "") if row is None else (int(row[0]), str(row[1]))
