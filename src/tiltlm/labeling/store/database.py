"""Opening the database of a project: one SQLite file, or PostgreSQL by URL.

SQLite: write-ahead log, every commit on the disk (`synchronous=FULL`), and every writing transaction begins with
`BEGIN IMMEDIATE`. Without it a transaction that reads first and then writes fails at once when another one has written
in between: with ten writers, 1,811 of 2,000 did.

A file that is no project is left as it is: the write-ahead log is chosen when a project is made or opened.
"""

import random
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from tiltlm.core.errors import ConfigError, DataError, RunError, TiltError
from tiltlm.labeling.store.turns import Turns

BUSY_MS = 20_000
"""How long a writer waits for the other ones."""
PAUSE = (0.001, 0.01)
"""Seconds between two attempts to begin writing."""
CONNECT_SECONDS = 5
ENGINE: dict[str, Any] = {"pool_size": 10, "max_overflow": 20, "pool_timeout": 10, "hide_parameters": True}
"""Connections that stay open, more of them under load, how many seconds a request waits for one; notes and digests
stay out of messages."""
NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ncpfs", "fuse.sshfs", "lustre", "ceph"})
"""File systems without the shared memory that a write-ahead log needs."""
READS: dict[str, dict[str, Any]] = {
    "sqlite": {"tiltlm_reads": True},
    "postgresql": {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True},
}
"""Options of a connection that only reads."""

# What databases call their errors: SQLite's names, and PostgreSQL's codes. A quota that is used up is an error of
# writing for SQLite.
FULL = frozenset({"SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_FSYNC", "SQLITE_IOERR_SHMSIZE", "53100"})
BUSY = ("SQLITE_BUSY", "SQLITE_LOCKED", "55P03", "40001", "40P01", "53300")
DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
NOT_WRITABLE = ("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM", "SQLITE_IOERR")
AWAY = ("08", "57P")


class DiskFull(RunError):
    """The disk of the database is full. Nothing of the transaction was kept."""


def is_url(name: str) -> bool:
    """Return True for an address of a PostgreSQL server, False for a file."""
    return bool(re.match(r"postgres(ql)?(\+\w+)?://", name))


def address_of(name: str) -> str:
    """Return what SQLAlchemy calls a database: a URL, or that of a SQLite file."""
    if is_url(name):
        return re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql+psycopg://", name)
    if "://" in name:
        raise ConfigError(
            f"the database {name.split('://')[0]}://… is neither a file nor a PostgreSQL address; give a file such as "
            "label.db, or postgresql://USER@HOST/NAME",
            code="unknown_name",
            key="database",
        )
    return f"sqlite:///{Path(name).absolute()}"


def shown(name: str) -> str:
    """Return the name of a database without a password, for messages."""
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:…@", name)


def connect(name: str) -> Engine:
    """Return an engine for a database; nothing is created or read.

    Args:
        name: A file, or postgresql://USER@HOST/NAME.

    Raises:
        ConfigError: The file is on a network file system, or the driver of PostgreSQL is missing.
    """
    address = address_of(name)
    if not is_url(name):
        refuse_network(Path(name))
        options = {"tiltlm_turns": Turns()}
        engine = create_engine(address, connect_args={"timeout": BUSY_MS / 1000}, execution_options=options, **ENGINE)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    try:
        engine = create_engine(address, pool_pre_ping=True, connect_args={"connect_timeout": CONNECT_SECONDS}, **ENGINE)
    except ImportError as error:
        raise ConfigError(
            "PostgreSQL needs the package psycopg: pip install 'tiltlm[postgres]'",
            code="missing_package",
            key="database",
        ) from error
    event.listen(engine, "connect", _prepare_postgres)
    return engine


@contextmanager
def engine_of(name: str) -> Iterator[Engine]:
    """Give an engine for a database to the block, and close its connections at the end."""
    engine = connect(name)
    try:
        yield engine
    finally:
        engine.dispose()


def _prepare_sqlite(connection: Any, record: Any) -> None:
    del record
    connection.isolation_level = None  # the driver begins no transactions; `_begin_sqlite` does
    for pragma in (f"busy_timeout={BUSY_MS}", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    """Begin a transaction. One that writes asks for the lock again and again, at random moments.

    SQLite's own waiting asks ten times a second after a while. Among ten processes that write without a pause, some
    asked for five seconds at the wrong moments.
    """
    own: Any = connection.connection.driver_connection
    if connection.get_execution_options().get("tiltlm_reads"):
        own.execute("BEGIN")
        return
    end = time.monotonic() + BUSY_MS / 1000
    own.execute("PRAGMA busy_timeout=0")
    try:
        while True:
            try:
                own.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if not error.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() > end:
                    raise
            time.sleep(random.uniform(*PAUSE))
    finally:
        own.execute(f"PRAGMA busy_timeout={BUSY_MS}")


def _prepare_postgres(connection: Any, record: Any) -> None:
    del record
    connection.execute(f"SET lock_timeout = {BUSY_MS}")
    connection.commit()


def use_write_ahead_log(engine: Engine) -> None:
    """Have a SQLite file use the write-ahead log; the file remembers it. Nothing happens in PostgreSQL.

    Raises:
        ConfigError: The file cannot have one.
    """
    if engine.dialect.name != "sqlite":
        return
    with own_errors(_name(engine)), closing(engine.raw_connection()) as connection:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        mode = cursor.fetchall()
    if mode != [("wal",)]:
        raise ConfigError(
            f"{engine.url.database} cannot have a write-ahead log, and without it people would wait for each other; "
            "put the database on a local disk, or use PostgreSQL: --database postgresql://USER@HOST/NAME",
            code="network_file_system",
            key="database",
        )


def refuse_network(path: Path) -> None:
    """Refuse a SQLite file on a network file system.

    Raises:
        ConfigError: It is on one.
    """
    kind = file_system(path)
    if kind in NETWORK:
        raise ConfigError(
            f"{path} is on a network file system ({kind}), where SQLite can lose votes; put the database on a local "
            "disk, or use PostgreSQL: --database postgresql://USER@HOST/NAME",
            code="network_file_system",
            key="database",
        )


def file_system(path: Path) -> str:
    """Return the kind of file system that a path is on, "" where the system does not say."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    place = path.absolute().parent.resolve()
    found = [
        (target, kind)
        for _, target, kind, *_ in (line.split() for line in mounts)
        if place.is_relative_to(target.encode().decode("unicode_escape"))
    ]
    return max(found, key=lambda one: len(one[0]), default=("", ""))[1]


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """Run one transaction that writes: all of it is kept, or nothing.

    Raises:
        DiskFull: The disk is full.
        RunError: `busy`: others wrote for too long. `unreachable`: the server of the database does not answer.
        DataError: `damaged`: the file is damaged, or no SQLite database.
        ConfigError: `not_writable`: the file cannot be opened or written.
    """
    turns: Turns | None = engine.get_execution_options().get("tiltlm_turns")
    turn = nullcontext() if turns is None else turns.turn(BUSY_MS / 1000)
    with own_errors(_name(engine)), turn, engine.begin() as connection:
        yield connection


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Run one transaction that only reads, and sees one state of the database.

    Raises:
        RunError: `busy` or `unreachable`, as `writing`.
        DataError: `damaged`, as `writing`.
        ConfigError: `not_writable`, as `writing`.
    """
    options = READS[engine.dialect.name]
    with own_errors(_name(engine)), engine.connect().execution_options(**options) as connection, connection.begin():
        yield connection


def _name(engine: Engine) -> str:
    """Return the name of a database as messages show it."""
    return engine.url.render_as_string() if engine.dialect.name != "sqlite" else str(engine.url.database)


@contextmanager
def own_errors(name: str) -> Iterator[None]:
    """Raise errors of a database that a user can do something about as errors of this package."""
    try:
        yield
    except (DBAPIError, sqlite3.Error, PoolTimeout) as error:
        if (found := own_error(error, name)) is None:
            raise
        raise found from error


def own_error(error: Exception, name: str) -> TiltError | None:
    """Return the error of this package for one of a database; None for a mistake in a statement.

    Args:
        error: An error of SQLAlchemy or of SQLite's driver.
        name: The database, for the message.
    """
    own = getattr(error, "orig", error)
    code = getattr(own, "sqlite_errorname", None) or getattr(own, "sqlstate", None) or ""
    if code in FULL:
        return DiskFull(
            f"the disk of {name} takes no more data ({own}); nothing of this request was kept. Free some space, and "
            "send it again",
            code="disk_full",
        )
    if isinstance(error, PoolTimeout) or code.startswith(BUSY):
        return RunError(f"{name} is busy ({own}); nothing of this request was kept. Send it again", code="busy")
    if code.startswith(DAMAGED):
        return DataError(
            f"{name} is damaged, or no SQLite database ({own}); `tiltlm label restore` makes a database from a backup",
            code="damaged",
            key="database",
        )
    if code.startswith(NOT_WRITABLE):
        return ConfigError(
            f"{name} cannot be opened for writing ({own}); the database needs a file and a folder that you may write",
            code="not_writable",
            key="database",
        )
    is_away = type(own).__module__.startswith("psycopg") and isinstance(error, OperationalError | InterfaceError)
    if is_away and (not code or code.startswith(AWAY)):
        return RunError(
            f"{name} does not answer ({str(own).strip()}); nothing of this request was kept", code="unreachable"
        )
    return None


def now() -> float:
    """Return the server's time, in seconds since 1970."""
    return time.time()


def storable(text: str) -> str:
    """Return text that both databases can hold: U+FFFD in place of NUL and of halves of surrogate pairs."""
    return re.sub("[\x00\ud800-\udfff]", "\ufffd", text)
