"""The run directory: the unit of work. Everything a run reads from or leaves behind is here, written by one process.

It is enough to run again and to compare: resolved configuration, versions, digests, data accounting, metrics,
checkpoints and the report.
"""

import json
import os
import shutil
import socket
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

from filelock import FileLock, Timeout

from tiltlm.core.errors import ConfigError, RunError
from tiltlm.distributed.ranks import Ranks
from tiltlm.storage.files import write_json, write_text

LOCK, WRITER = ".lock", ".writer.json"


@dataclass(frozen=True)
class RunDirectory:
    """An open run directory. Use as a context manager: leaving it gives up the lock."""

    MARKER: ClassVar[str] = "run.json"
    """The file that makes a folder a run directory: written first, deleted last."""

    path: Path
    _lock: FileLock | None
    """Held by the run's first process; the others have none and write nothing."""

    @classmethod
    def open(
        cls, path: Path | str, *, resume: bool = False, overwrite: bool = False, ranks: Ranks | None = None
    ) -> "RunDirectory":
        """Make a run directory, or take over one, and lock it against a second writer.

        Args:
            path: The folder; new, empty, or a run's.
            resume: Go on with the run that is there.
            overwrite: Delete the run that is there.
            ranks: The processes of the run, which all open it together; None: this one alone.

        Raises:
            ConfigError: as `check_contents`.
            RunError: another process is writing to it.
        """
        path = Path(path)
        locks: list[FileLock] = []
        (ranks or Ranks()).first(lambda: locks.append(_prepare(path, resume, overwrite)))
        return cls(path, locks[0] if locks else None)

    @property
    def metrics(self) -> Path:
        """One JSON object a line: a step, an evaluation."""
        return self.path / "metrics.jsonl"

    @property
    def bad_steps(self) -> Path:
        """One JSON object a step that was skipped, with its rows; absent where all went well."""
        return self.path / "bad_steps.jsonl"

    @property
    def checkpoints(self) -> Path:
        """One folder a checkpoint."""
        return self.path / "checkpoints"

    def write_json(self, name: str, value: Any) -> Path:
        """Write `name` in this directory, whole or not at all, in the run's first process."""
        if self._lock is not None:
            write_json(self.path / name, value)
        return self.path / name

    def write_text(self, name: str, text: str) -> Path:
        """Write `name` in this directory, whole or not at all, in the run's first process."""
        if self._lock is not None:
            write_text(self.path / name, text)
        return self.path / name

    def close(self) -> None:
        """Let another process write here."""
        if self._lock is not None and self._lock.is_locked:
            (self.path / WRITER).unlink(missing_ok=True)
            self._lock.release()

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check_contents(path: Path, resume: bool = False, overwrite: bool = False) -> None:
    """Whether a run may begin or go on in this folder: to ask early, before anything is loaded. Writes nothing.

    Raises:
        ConfigError: the folder holds a run and neither was asked for, holds something else, or holds nothing to resume.
    """
    if resume and overwrite:
        raise ConfigError(
            "--resume and --overwrite exclude each other: go on with the run, or start it again",
            code="conflict",
            key="--resume",
        )
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{path} is a file; name a folder for the run", code="not_a_folder", key="output")
    holds_run = (path / RunDirectory.MARKER).exists()
    others = [p.name for p in path.iterdir() if p.name not in (LOCK, WRITER)] if path.exists() else []
    if resume and not holds_run:
        raise ConfigError(
            f"{path}: there is no run to resume here; leave --resume out to start one", code="no_run", key="--resume"
        )
    if holds_run and not (resume or overwrite):
        raise ConfigError(
            f"{path} already holds a run; go on with it (--resume), delete it and start again (--overwrite), "
            "or name another folder",
            code="already_holds_run",
            key="output",
        )
    if others and not holds_run:
        raise ConfigError(
            f"{path} is not empty and no run (it holds {others[0]}); name a new or empty folder",
            code="not_empty",
            key="output",
        )


def _prepare(path: Path, resume: bool, overwrite: bool) -> FileLock:
    """See `RunDirectory.open`; the lock, held."""
    check_contents(path, resume, overwrite)
    path.mkdir(parents=True, exist_ok=True)
    lock = _locked(path)
    if overwrite:
        _empty(path)
    marker = path / RunDirectory.MARKER
    if not marker.exists():
        write_json(marker, {"format": 1, "created": _now()})
    return lock


def _locked(path: Path) -> FileLock:
    """The lock of a run directory, held: the system gives it up when the process dies, however it dies."""
    lock = FileLock(path / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        writer = "another process"
        with suppress(OSError, ValueError, KeyError):
            told = json.loads((path / WRITER).read_text(encoding="utf-8"))
            writer = f"process {told['pid']} on {told['host']}, since {told['since']},"
        raise RunError(
            f"{path}: {writer} is writing here; wait for it or stop it, or name another folder",
            code="in_use",
            key="output",
        ) from error
    write_json(path / WRITER, {"pid": os.getpid(), "host": socket.gethostname(), "since": _now()})
    return lock


def _empty(path: Path) -> None:
    """Delete a run, its marker last: a kill in between leaves what is still recognised as a run."""
    for entry in sorted(path.iterdir(), key=lambda p: p.name == RunDirectory.MARKER):
        if entry.name in (LOCK, WRITER):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
