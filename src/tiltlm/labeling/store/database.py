"""Opening the database of a project: one SQLite file, or PostgreSQL by URL.

SQLite: write-ahead log, every commit on the disk (`synchronous=FULL`), and every writing transaction begins with
`BEGIN IMMEDIATE`. Without it a transaction that reads first and then writes fails at once when another one has written
in between: with ten writers, 1,811 of 2,000 did.
"""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError

from tiltlm.core.errors import ConfigError, RunError

BUSY_MS = 5000
"""How long a writer waits for the other ones."""
NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ncpfs", "fuse.sshfs", "lustre", "ceph"})
"""File systems without the shared memory that a write-ahead log needs."""
READS = {"tiltlm_reads": True}


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
        engine = create_engine(address, connect_args={"timeout": BUSY_MS / 1000})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    try:
        return create_engine(address, pool_size=10, max_overflow=20, pool_pre_ping=True)
    except ImportError as error:
        raise ConfigError(
            "PostgreSQL needs the package psycopg: pip install 'tiltlm[postgres]'",
            code="missing_package",
            key="database",
        ) from error


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
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={BUSY_MS}"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    is_read = connection.get_execution_options().get("tiltlm_reads")
    connection.exec_driver_sql("BEGIN" if is_read else "BEGIN IMMEDIATE")


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
    """
    with _own_errors(), engine.begin() as connection:
        yield connection


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Run one transaction that only reads, and sees one state of the database."""
    with _own_errors(), engine.connect().execution_options(**READS) as connection, connection.begin():
        yield connection


@contextmanager
def _own_errors() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        if is_full(error):
            raise DiskFull(
                "the disk of the database is full; the vote was not kept. Free some space, and send it again",
                code="disk_full",
            ) from error
        raise


def is_full(error: DBAPIError) -> bool:
    """Return True if a database refused to write because its disk is full."""
    own = error.orig
    if getattr(own, "sqlstate", None) == "53100":
        return True
    code = getattr(own, "sqlite_errorname", "")
    return code == "SQLITE_FULL" or code in ("SQLITE_IOERR_WRITE", "SQLITE_IOERR_FSYNC")


def now() -> float:
    """Return the server's time, in seconds since 1970."""
    return time.time()
