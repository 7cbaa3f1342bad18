"""The lock of a run directory: one process writes to it.

The lock is the system's and ends with its process. On shared disks the lock of a machine that is down may stay. So
another process may take over where the writer has shown no sign of life for a while (`heartbeat.py`). A writer that was
taken over, because it was only frozen, writes nothing more.
"""

import logging
import os
import socket
import tempfile
import time
import uuid
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from tiltlm.core.errors import RunError
from tiltlm.distributed.position import HERE
from tiltlm.runs.heartbeat import WRITER, Writer, beating, read_writer
from tiltlm.storage.cache import try_lock

log = logging.getLogger(__name__)

LOCK, TAKEOVER = ".lock", ".takeover.lock"
FILES = (LOCK, WRITER, TAKEOVER)
"""Files in a run directory that are no part of the run."""
STALE = 120.0
"""Seconds without a sign of life after which another process may take over; more than file systems delay times."""
TAKEN_OVER = "taken_over"
"""Code of the error of a writer that was taken over."""
WAITS = "wait for the earlier writer"
"""Phase of a process that waits for the lock."""


class WriteLock:
    """The right to write to a run directory, until `close`."""

    def __init__(self, path: Path, lock: ExitStack) -> None:
        """Begin to write. `take` is the way to get one.

        Args:
            path: The run directory.
            lock: Releases the lock of the system.
        """
        self._path, self._lock = path, lock
        self._writer = Writer(os.getpid(), socket.gethostname(), now(), uuid.uuid4().hex)
        lock.enter_context(beating(path, self._writer))

    def check(self) -> None:
        """Require that no other process has taken over. Call it before anything is written.

        Raises:
            RunError: another process writes to this run directory now.
        """
        if (found := read_writer(self._path)) != self._writer:
            raise RunError(
                f"{self._path}: {_name(found)} has taken over this run, because this process showed no sign of life "
                "for a while. It writes nothing more and ends",
                code=TAKEN_OVER,
                key="output",
            )

    def close(self) -> None:
        """Release the lock, so that another process may write."""
        self._lock.close()


def take(path: Path, patience: float = 0.0) -> WriteLock:
    """Become the writer of a run directory.

    Args:
        path: The run directory; it exists.
        patience: Seconds to wait for another writer to end.

    Raises:
        RunError: another process writes to it.
    """
    until = time.monotonic() + patience
    while (lock := _locked(path)) is None:
        if time.monotonic() > until:
            raise RunError(
                f"{path}: {_name(read_writer(path))} is writing here; wait for it or stop it, or choose another "
                f"folder. If its machine is down, try again {STALE / 60:g} minutes after its end",
                code="in_use",
                key="output",
            )
        if HERE.phase != WAITS:
            log.info("%s: waiting for %s to end", path, _name(read_writer(path)), extra={"event": "waits"})
        HERE.note(WAITS)
        time.sleep(min(1.0, patience))
    return WriteLock(path, lock)


def _locked(path: Path) -> ExitStack | None:
    """Take the lock, also from a writer that is gone; return None if another process has it."""
    lock = ExitStack()
    if lock.enter_context(try_lock(path / LOCK)):
        return lock
    with try_lock(path / TAKEOVER) as alone:
        if not alone or not is_stale(path):
            return None
        log.warning(
            "%s: %s has shown no sign of life for %g s; this process takes over",
            path,
            _name(read_writer(path)),
            STALE,
            extra={"event": "takes_over"},
        )
        (path / LOCK).unlink(missing_ok=True)  # the old lock stays with the file that had this name
        return lock if lock.enter_context(try_lock(path / LOCK)) else None


def is_stale(path: Path) -> bool:
    """Return whether the writer shows no sign of life. Both times are those of the file system, not of two machines."""
    try:
        last = (path / WRITER).stat().st_mtime
    except FileNotFoundError:  # it begins, or ends
        return False
    with tempfile.NamedTemporaryFile(dir=path, prefix=".time-") as probe:
        return os.fstat(probe.fileno()).st_mtime - last > STALE


def _name(writer: Writer | None) -> str:
    """Return the name of a writer in a message."""
    return "another process" if writer is None else f"{writer},"


def now() -> str:
    """Return the present time in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
