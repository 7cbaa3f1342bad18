"""Making and opening a project: its settings, its secret, its guidelines."""

import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, func, insert, inspect, select, update

from tiltlm.core.errors import DataError
from tiltlm.labeling.project import ProjectSettings
from tiltlm.labeling.store.database import connect, is_url, now, reading, shown, writing
from tiltlm.labeling.store.tables import guideline, metadata, project

DEFAULT_GUIDELINES = """\
Choose the response that you would rather get if you had written the prompt.

- Read both responses to the end before you vote.
- Being right and being helpful come before style. Longer is not better.
- **Tie** if you cannot say which one is better. **Both bad** if neither is of use.
- Skip what you cannot judge, and say why.
"""


@dataclass(frozen=True, eq=False)
class Project:
    """An open project."""

    engine: Engine
    name: str
    """The database as the user named it, without a password."""
    settings: ProjectSettings
    secret: bytes


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
    engine = connect(database)
    if has_project(engine):
        raise DataError(f"{shown(database)} holds a project already", code="output_exists", key="database")
    metadata.create_all(engine)
    start = now()
    with writing(engine) as connection:
        values = {"id": 1, "secret": secrets.token_hex(32), "settings": json.dumps(settings.as_dict())}
        connection.execute(insert(project).values({**values, "plan": json.dumps(plan or {}), "created_at": start}))
        add_guidelines(connection, guidelines)
    return open_project(database)


def open_project(database: str) -> Project:
    """Open a project.

    Raises:
        ConfigError: The database cannot be used.
        DataError: There is no project in it.
    """
    if not is_url(database) and not Path(database).is_file():
        raise DataError(
            f"{database}: no such file; `tiltlm label serve DATA --database {database}` makes it",
            code="no_such_path",
            key="database",
        )
    engine = connect(database)
    if not has_project(engine):
        raise DataError(f"{shown(database)} holds no labelling project", code="damaged", key="database")
    with reading(engine) as connection:
        text, secret = connection.execute(select(project.c.settings, project.c.secret)).one()
    return Project(engine, shown(database), ProjectSettings.of(json.loads(text)), bytes.fromhex(secret))


def has_project(engine: Engine) -> bool:
    """Return True if a database holds a project."""
    return inspect(engine).has_table("project")


def change_settings(connection: Connection, settings: ProjectSettings) -> None:
    """Store settings in place of those that a project has."""
    connection.execute(update(project).values(settings=json.dumps(settings.as_dict())))


def read_plan(connection: Connection) -> dict[str, Any]:
    """Return where the pairs of a project came from."""
    plan: dict[str, Any] = json.loads(connection.execute(select(project.c.plan)).scalar_one())
    return plan


def add_guidelines(connection: Connection, text: str) -> int:
    """Add a version of the guidelines, and return its number. The same text again makes no new version."""
    version, known = read_guidelines(connection)
    if version and known == text:
        return version
    connection.execute(insert(guideline).values(version=version + 1, text=text, created_at=now()))
    return version + 1


def read_guidelines(connection: Connection) -> tuple[int, str]:
    """Return the newest version of the guidelines and its text; 0 and "" if there are none."""
    newest = select(func.max(guideline.c.version)).scalar_subquery()
    row = connection.execute(select(guideline.c.version, guideline.c.text).where(guideline.c.version == newest)).first()
    return (0, "") if row is None else (int(row[0]), str(row[1]))
