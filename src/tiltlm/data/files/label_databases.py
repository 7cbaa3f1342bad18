"""Read the votes of a labelling project from its SQLite file, with the standard library alone.

The file is opened for reading only, so an app that writes to it is not disturbed. All votes are read in one
transaction: they are those of one moment.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from tiltlm.core.errors import DataError
from tiltlm.data.files.text_files import Row
from tiltlm.data.labels.label_rows import label_rows
from tiltlm.data.labels.project_votes import ADJUDICATION_COLUMNS, VOTE_COLUMNS, read_project
from tiltlm.data.labels.rules import LabelSettings, make_labels
from tiltlm.data.labels.votes import Votes

MAGIC = b"SQLite format 3\0"
WAIT = 10.0
"""Seconds to wait for an app that is about to close the file."""


def is_database(path: Path) -> bool:
    """Return True if a file is a SQLite database."""
    try:
        with path.open("rb") as content:
            return content.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def read_database(path: Path) -> Votes:
    """Return the votes on the tasks of a project; gold and calibration are left out.

    Raises:
        DataError: The file is no labelling project, is damaged, or has no votes yet.
    """
    try:
        with closing(_connect(path)) as connection:
            connection.row_factory = sqlite3.Row
            connection.execute("BEGIN")
            _check_views(connection, path)
            votes = connection.execute(f"SELECT {_columns(VOTE_COLUMNS)} FROM vote_row WHERE kind = 'task'")
            decisions = connection.execute(f"SELECT {_columns(ADJUDICATION_COLUMNS)} FROM adjudication_row")
            found = read_project(map(dict, votes), map(dict, decisions))
    except sqlite3.Error as error:
        raise DataError(f"{path}: the database cannot be read: {error}", code="not_readable") from error
    if not len(found.item):
        raise DataError(
            f"{path}: the labelling project has no votes yet; `tiltlm label serve --database {path}` opens the app",
            code="no_votes",
        )
    return found


def _columns(names: tuple[str, ...]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _connect(path: Path) -> sqlite3.Connection:
    address = path.absolute().as_uri()
    connection = sqlite3.connect(f"{address}?mode=ro", uri=True, timeout=WAIT, isolation_level=None)
    try:
        connection.execute("SELECT 1 FROM sqlite_master")
    except sqlite3.OperationalError:
        connection.close()
        if path.with_name(f"{path.name}-wal").exists():
            raise
        # A log beside the file cannot be made in a folder without write access, and there is none to be read.
        connection = sqlite3.connect(f"{address}?mode=ro&immutable=1", uri=True, isolation_level=None)
    return connection


def _check_views(connection: sqlite3.Connection, path: Path) -> None:
    """Raise if the database is no labelling project, or one of a version with other columns."""
    for view, columns in (("vote_row", VOTE_COLUMNS), ("adjudication_row", ADJUDICATION_COLUMNS)):
        known = {row[1] for row in connection.execute(f"PRAGMA table_info({view})")}
        if not known:
            raise DataError(
                f"{path}: this SQLite file is no labelling project of `tiltlm label serve`", code="unknown_file_format"
            )
        if missing := [name for name in columns if name not in known]:
            raise DataError(
                f"{path}: this labelling project was written by another version of tiltlm: {view} has no "
                f"{', '.join(missing)}; use the version that wrote it",
                code="other_version",
            )


def database_rows(path: Path, votes: Votes, rule: LabelSettings) -> Iterator[Row]:
    """Yield one pair for each item that gets a label, sorted by id.

    Args:
        path: The file, for messages.
        votes: The votes.
        rule: How votes become labels.
    """
    rows: list[dict[str, Any]] = label_rows(votes, make_labels(votes, rule))
    for row in rows:
        yield Row(f"{path}:{row['id']}", row)
