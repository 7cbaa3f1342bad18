"""All votes as plain text beside a SQLite file: `label.events.jsonl`, one JSON object a line, in the order of votes.

The database is the truth; the journal is for people who want to see and keep every vote without a program. It is
written after the vote was committed, by `catch_up`: it adds all events behind the last one that the file has. So it
does not matter who calls it, how often, or what was lost before: a line that a crash cut off is written again, and a
full disk delays the journal and never a vote. Several processes may call it; a lock lets one write at a time.

SQLite commits events in the order of their ids, which makes "behind the last one" complete. PostgreSQL does not, so
it has no journal; `tiltlm label export --votes` writes the votes as text there.
"""

import json
import logging
import os
import threading
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from sqlalchemy import Row, Select, select

from tiltlm.core.errors import RunError, TiltError
from tiltlm.labeling.store.database import reading
from tiltlm.labeling.store.projects import Project
from tiltlm.labeling.store.tables import event, pair, person

logger = logging.getLogger(__name__)

LOCK_SECONDS = 10
PAUSE_SECONDS = 0.5
"""Votes of this time are written together."""
BLOCK = 1 << 16
SAME = ("id", "key", "person", "server_time")
"""Names of what must be equal in the last line and in the database."""


def journal_path(project: Project) -> Path | None:
    """Return the journal of a project: `label.events.jsonl` for `label.db`. None in PostgreSQL."""
    url = project.engine.url
    return Path(url.database).with_suffix(".events.jsonl") if project.engine.dialect.name == "sqlite" else None  # type: ignore[arg-type]


def catch_up(project: Project) -> int:
    """Add to the journal what it lacks, and have the system write it to the disk.

    A file whose last line is no event of the database is another project's, or of before a restore. It is kept as
    `label.events.1.jsonl` (or 2, ...), and a new one is begun.

    Returns:
        Number of lines that were added; 0 in PostgreSQL.

    Raises:
        RunError: `not_writable`: the file cannot be written, or another process has locked it for too long.
    """
    if (path := journal_path(project)) is None:
        return 0
    try:
        with FileLock(f"{path}.lock", timeout=LOCK_SECONDS):
            return _catch_up(project, path)
    except (OSError, Timeout) as error:
        raise RunError(
            f"the journal {path} cannot be written ({error}); the votes are in the database, and the journal gets them "
            "when it can be written again",
            code="not_writable",
        ) from error


def _catch_up(project: Project, path: Path) -> int:
    last = _repair(path)
    with reading(project.engine) as connection:
        if last is not None:
            known = connection.execute(_events().where(event.c.id == last.get("id"))).first()
            if known is None or any(last.get(name) != _line(known)[name] for name in SAME):
                aside = _unused(path)
                path.replace(aside)
                logger.warning(
                    "%s is of other votes than the database; it is kept as %s",
                    path,
                    aside,
                    extra={"event": "other_journal"},
                )
                last = None
        rows = connection.execute(_events().where(event.c.id > (last["id"] if last else 0)).order_by(event.c.id)).all()
    if rows:
        _append(path, "".join(json.dumps(_line(row)) + "\n" for row in rows).encode("ascii"))
    return len(rows)


def _events() -> Select[Any]:
    joined = event.join(pair, pair.c.id == event.c.pair_id).join(person, person.c.id == event.c.person_id)
    return select(event, pair.c.key.label("pair"), person.c.name.label("person")).select_from(joined)


def _line(row: Row[Any]) -> dict[str, Any]:
    """Return the values of an event, with names in place of the numbers of pair and person."""
    values = dict(row._mapping)
    return {name: value for name, value in values.items() if name not in ("pair_id", "person_id")}


def _repair(path: Path) -> dict[str, Any] | None:
    """Remove a last line that is not complete, and return the one before. None if there is no line.

    Raises:
        OSError: The file cannot be read or written.
    """
    if not path.exists():
        return None
    with path.open("r+b") as file:
        size, found = file.seek(0, os.SEEK_END), b""
        start = size
        while start and found.count(b"\n") < 2:
            start = max(0, start - BLOCK)
            file.seek(start)
            found = file.read(size - start)
        end = found.rfind(b"\n") + 1
        file.truncate(start + end)
    line = found[:end].rstrip(b"\n").rpartition(b"\n")[2]
    try:
        read = json.loads(line) if end else None
    except ValueError:
        read = {}
    return read if isinstance(read, dict) or read is None else {}


def _unused(path: Path) -> Path:
    stem = path.name.removesuffix(".jsonl")
    names = (path.with_name(f"{stem}.{k}.jsonl") for k in range(1, 10**6))
    return next(name for name in names if not name.exists())


def _append(path: Path, lines: bytes) -> None:
    """Add lines at the end of a file. If that fails, none of them stays."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        try:
            while lines:
                lines = lines[os.write(descriptor, lines) :]
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)


class JournalWriter:
    """A thread that writes the journal while a block runs: `wake` after a vote, and no request waits for it."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._wanted = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)

    def wake(self) -> None:
        """Have the journal written soon."""
        self._wanted.set()

    def __enter__(self) -> "JournalWriter":
        self._thread.start()
        self.wake()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self.wake()
        self._thread.join()

    def _run(self) -> None:
        is_last = False
        while not is_last:
            self._wanted.wait()
            self._wanted.clear()
            is_last = self._ended.wait(PAUSE_SECONDS)  # if the end comes after this line, `_wanted` is set again
            try:
                catch_up(self._project)
            except TiltError as error:
                logger.warning("%s", error, extra={"event": "journal_failed"})
