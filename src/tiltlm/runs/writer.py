"""The one writer of a run directory.

The writer holds a lock of the system, which ends with its process. On shared disks the lock of a machine that is down
may stay. So the writer also renews a file as a sign of life; where that has stopped, another process may take over. A
writer that was taken over, because it was only frozen, writes nothing more.
"""

import json
import logging
import os
import socket
import tempfile
import threading
import time
import uuid
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tiltlm.core.errors import RunError
from tiltlm.distributed.position import HERE
from tiltlm.storage.cache import try_lock
from tiltlm.storage.files import write_json

log = logging.getLogger(__name__)

LOCK, WRITER, TAKEOVER = ".lock", ".writer.json", ".takeover.lock"
FILES = (LOCK, WRITER, TAKEOVER)
"""Files of this module in a run directory."""
RENEWAL = 10.0
"""Seconds between two signs of life."""
STALE = 120.0
"""Seconds without a sign of life after which another process may take over; more than file systems delay times."""


class Writer:
    """The right to write to a run directory, until `close`."""

    def __init__(self, path: Path, lock: ExitStack) -> None:
        """Begin to write. `take` is the way to get one.

        Args:
            path: The run directory.
            lock: Holds the lock of the system.
        """
        self._file = path / WRITER
        self._lock = lock
        self._token = uuid.uuid4().hex
        write_json(self._file, {"pid": os.getpid(), "host": socket.gethostname(), "since": now(), "token": self._token})
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="tiltlm-writer", daemon=True)
        self._thread.start()

    @property
    def is_valid(self) -> bool:
        """True if no other process has taken over."""
        found = _read(self._file)
        return found is not None and found.get("token") == self._token

    def check(self) -> None:
        """Require that no other process has taken over. Call it before anything is written.

        Raises:
            RunError: another process writes to this run directory now.
        """
        if not self.is_valid:
            raise RunError(
                f"{self._file.parent}: {_name(_read(self._file))} has taken over this run, because this process showed "
                "no sign of life for a while. It writes nothing more and ends",
                code="taken_over",
                key="output",
            )

    def close(self) -> None:
        """End the writing, so that another process may begin."""
        self._stop.set()
        self._thread.join()
        if self.is_valid:
            self._file.unlink(missing_ok=True)
        self._lock.close()

    def _renew(self) -> None:
        """Give a sign of life from time to time, while this process is the writer."""
        while not self._stop.wait(RENEWAL):
            with suppress(OSError):  # a disk that does not answer for a moment
                if self.is_valid:
                    os.utime(self._file)


def take(path: Path, patience: float = 0.0) -> Writer:
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
                f"{path}: {_name(_read(path / WRITER))} is writing here; wait for it or stop it, or choose another "
                f"folder. If its machine is down, try again {STALE / 60:g} minutes after its end",
                code="in_use",
                key="output",
            )
        if HERE.phase != "wait for the earlier writer":
            log.info("%s: waiting for %s to end", path, _name(_read(path / WRITER)), extra={"event": "waits"})
        HERE.note("wait for the earlier writer")
        time.sleep(min(1.0, patience))
    return Writer(path, lock)


def _locked(path: Path) -> ExitStack | None:
    """Take the lock of a run directory, also from a writer that is gone; return None if another process has it."""
    lock = ExitStack()
    if lock.enter_context(try_lock(path / LOCK)):
        return lock
    with try_lock(path / TAKEOVER) as alone:
        if not alone or not _is_stale(path):
            return None
        log.warning(
            "%s: %s has shown no sign of life for %g s; this process takes over",
            path,
            _name(_read(path / WRITER)),
            STALE,
            extra={"event": "takes_over"},
        )
        (path / LOCK).unlink(missing_ok=True)  # the old lock stays with the file that had this name
        return lock if lock.enter_context(try_lock(path / LOCK)) else None


def _is_stale(path: Path) -> bool:
    """Return whether the writer shows no sign of life. Both times are those of the file system."""
    try:
        renewed = (path / WRITER).stat().st_mtime
    except FileNotFoundError:  # it begins, or ends
        return False
    with tempfile.NamedTemporaryFile(dir=path, prefix=".time-") as probe:
        return os.fstat(probe.fileno()).st_mtime - renewed > STALE


def _read(file: Path) -> dict[str, Any] | None:
    """Return what a writer says about itself; None if nothing can be read."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _name(found: dict[str, Any] | None) -> str:
    """Return the name of a writer in a message."""
    if found is None or not {"pid", "host", "since"} <= found.keys():
        return "another process"
    return f"process {found['pid']} on {found['host']}, since {found['since']},"


def now() -> str:
    """Return the present time in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
