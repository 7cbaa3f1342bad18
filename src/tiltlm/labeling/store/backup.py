"""Copies of a project while the app runs, and new databases from them.

A backup is one SQLite file, also of a PostgreSQL database. It holds everything: votes, people, links as digests, and
the project's secret, so keep it as private as the database. `restore` makes a SQLite file or fills an empty PostgreSQL
database with it; that is also the way from one to the other.
"""

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlalchemy import Connection, func, insert, select

from tiltlm.core.errors import ConfigError, DataError
from tiltlm.labeling.store.database import engine_of, is_url, own_errors, reading
from tiltlm.labeling.store.projects import new_tables, open_project, revision_of_project
from tiltlm.labeling.store.tables import metadata
from tiltlm.storage.files import check_writable, sync

ROWS = 1000
"""Rows that are copied at a time."""


def back_up(database: str, target: str | Path) -> Path:
    """Copy a project into a new file, while people go on voting. The copy is one state of the database.

    Args:
        database: A file, or the URL of a PostgreSQL database.
        target: The file to write; it appears when it is complete and was checked.

    Returns:
        The file.

    Raises:
        DataError: There is no project, it is damaged, or the file exists.
        ConfigError: The database or the file cannot be used.
        RunError: The server does not answer, or the disk is full.
    """
    target = Path(target)
    with _new_file(target) as temporary:
        if is_url(database):
            with (
                open_project(database) as project,
                reading(project.engine) as source,
                new_tables(str(temporary)) as copy,
            ):
                _copy_tables(source, copy)
        else:
            _copy_file(_existing(database), temporary)
        _make_single(temporary)
    return target


def restore(backup: str | Path, database: str) -> None:
    """Make a project from a backup, in a new SQLite file or an empty PostgreSQL database.

    Everything goes on as it was: links, sides, order and ids are the same.

    Args:
        backup: A file that `back_up` wrote. It is not changed.
        database: A file that does not exist, or the URL of an empty PostgreSQL database.

    Raises:
        DataError: The backup is damaged or no project, or the database holds something.
        ConfigError: The database cannot be used.
        RunError: The server does not answer, or the disk is full.
    """
    backup = _existing(str(backup))
    if not is_url(database):
        for name in (f"{database}-wal", f"{database}-shm"):
            if Path(name).exists():
                raise DataError(
                    f"{name} is left of another database; move it away, or it would change the restored one",
                    code="output_exists",
                    key="database",
                )
        with _new_file(Path(database)) as temporary:
            _copy_file(backup, temporary)
            _make_single(temporary)
        open_project(database).close()
        return
    with tempfile.TemporaryDirectory() as folder:
        newest = f"{folder}/label.db"
        _copy_file(backup, Path(newest))
        _make_single(Path(newest))
        with (
            open_project(newest) as project,  # brings an old one up
            reading(project.engine) as source,
            new_tables(database) as copy,
        ):
            _copy_tables(source, copy)
            _set_sequences(copy)


def _existing(name: str) -> Path:
    if not Path(name).is_file():
        raise DataError(f"{name}: no such file", code="no_such_path", key="database")
    return Path(name)


@contextmanager
def _new_file(path: Path) -> Iterator[Path]:
    """Give a temporary name to the block; its file gets the right name at the end, and is on the disk then.

    Raises:
        DataError: The file exists.
    """
    if path.exists():
        raise DataError(f"{path} exists; give another name", code="output_exists", key="database")
    try:
        check_writable(path.parent)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written ({error}); give a name in a folder that you may write",
            code="not_writable",
            key="database",
        ) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    beside = [temporary, *(temporary.with_name(temporary.name + end) for end in ("-wal", "-shm", "-journal"))]
    for name in beside:
        name.unlink(missing_ok=True)
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    finally:
        for name in beside:
            name.unlink(missing_ok=True)
    sync(path.parent)


def _copy_file(source: Path, target: Path) -> None:
    """Copy a SQLite database as it is at this moment, with what is in its log.

    Raises:
        DataError: It is no project.
    """
    with engine_of(str(source)) as engine, reading(engine) as connection:
        revision_of_project(connection, str(source))
    with own_errors(str(target)), closing(sqlite3.connect(source)) as own, closing(sqlite3.connect(target)) as copy:
        own.backup(copy)


def _make_single(path: Path) -> None:
    """Check a copy, and make it one file without a log.

    Raises:
        DataError: It is damaged.
    """
    with own_errors(str(path)), closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
        found = [line for (line,) in connection.execute("PRAGMA integrity_check")]
    if found != ["ok"]:
        raise DataError(f"the database is damaged: {'; '.join(found[:3])}", code="damaged", key="database")


def _copy_tables(source: Connection, target: Connection) -> None:
    """Copy all rows, those that others refer to first."""
    for table in metadata.sorted_tables:
        rows = source.execution_options(yield_per=ROWS).execute(select(table).order_by(*table.primary_key.columns))
        for part in rows.mappings().partitions():
            target.execute(insert(table), [dict(row) for row in part])


def _set_sequences(target: Connection) -> None:
    """Let PostgreSQL number new rows behind the copied ones."""
    for table in metadata.sorted_tables:
        column = table.autoincrement_column
        newest = None if column is None else target.execute(select(func.max(column))).scalar()
        if column is not None and newest is not None:
            sequence = func.pg_get_serial_sequence(table.name, column.name)
            target.execute(select(func.setval(sequence, newest)))
