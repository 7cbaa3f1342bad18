"""The file that says who writes to a run directory: process, machine, and a sign of life every few seconds.

The lock itself can only be tried by taking it. This file can be read by anyone, from any machine that sees the folder,
and reading it changes nothing.
"""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from tiltlm.distributed.repeating import repeating
from tiltlm.storage.files import write_json

WRITER = ".writer.json"
BEAT = 10.0
"""Seconds between two signs of life."""
SILENT = 60.0
"""A writer whose last sign of life is older than this many seconds is gone: killed, or its machine stopped."""


@dataclass(frozen=True)
class Writer:
    """The process that writes to a run directory, or that did when it was killed."""

    pid: int
    host: str
    since: str
    """ISO 8601."""
    token: str = ""
    """Tells this writer from every other one."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


@contextmanager
def beating(folder: Path, writer: Writer) -> Iterator[None]:
    """Say in the block that this process writes to the folder. The file is removed at the end; a kill leaves it.

    Where another process has taken over, the file is its own and is left alone.

    Args:
        folder: The run directory.
        writer: This process.
    """
    path = folder / WRITER
    write_json(path, asdict(writer))

    def beat() -> None:
        with suppress(OSError):  # a disk that does not answer for a moment is no reason to end a run
            if read_writer(folder) == writer:
                os.utime(path)

    try:
        with repeating(beat, BEAT, "tiltlm-heartbeat"):
            yield
    finally:
        if read_writer(folder) == writer:
            path.unlink(missing_ok=True)


def read_writer(folder: Path) -> Writer | None:
    """Return who writes to a run directory, or did when it was killed; None if nobody is named."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads((folder / WRITER).read_text(encoding="utf-8"))
        return Writer(int(found["pid"]), str(found["host"]), str(found["since"]), str(found.get("token", "")))
    return None


def is_alive(folder: Path, writer: Writer) -> bool:
    """Return whether the writer of a run directory still runs, by its sign of life and, on this machine, its id."""
    if writer.host == socket.gethostname() and not _exists(writer.pid):
        return False
    with suppress(OSError):
        return time.time() - (folder / WRITER).stat().st_mtime < SILENT
    return False


def _exists(pid: int) -> bool:
    """Return whether this machine has a process with this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's
        pass
    return True
