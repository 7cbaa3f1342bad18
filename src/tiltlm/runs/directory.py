"""The run directory, which holds all results of a run; only one process writes to it.

It is enough to run again and to compare: resolved configuration, versions, digests, data accounting, metrics,
checkpoints and the report.
"""

import os
import shutil
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

from tiltlm.core.errors import ConfigError, RunError, TiltError
from tiltlm.runs.ending import ENDED, write_ending
from tiltlm.runs.heartbeat import WRITER, beating, read_writer
from tiltlm.storage.cache import try_lock
from tiltlm.storage.files import check_writable, write_json, write_text

if TYPE_CHECKING:
    from tiltlm.distributed.ranks import Ranks

LOCK = ".lock"


@dataclass(frozen=True)
class RunDirectory:
    """An open run directory. As a context manager it notes how the run ended, and releases the lock.

    A new run that one of our errors ends before its first record is deleted, so that it does not block the next try.
    """

    MARKER: ClassVar[str] = "run.json"
    """The file that marks a folder as a run directory. It is written first and deleted last."""

    path: Path
    _lock: ExitStack | None
    """Releases the lock when it is closed. Rank 0 holds the lock; the others have None and write nothing."""
    is_new: bool = False
    """True if the run is not continued. An error of ours before its first record then removes what was written."""

    @classmethod
    def open(
        cls, path: Path | str, *, resume: bool = False, overwrite: bool = False, ranks: "Ranks | None" = None
    ) -> "RunDirectory":
        """Make a run directory, or open an existing one, and lock it against a second writer.

        Args:
            path: A new folder, an empty one, or a run directory.
            resume: Continue the run in it.
            overwrite: Delete the run in it.
            ranks: The processes of the run, which all open it together. None means this process only.

        Raises:
            ConfigError: as `check_contents`.
            RunError: another process writes to it.
        """
        path = Path(path)
        locks: list[ExitStack] = []

        def prepare() -> None:
            locks.append(_prepare(path, resume, overwrite))

        prepare() if ranks is None else ranks.first(prepare)
        return cls(path, locks[0] if locks else None, not resume)

    @property
    def metrics(self) -> Path:
        """A JSON Lines file with one record per step or evaluation."""
        return self.path / "metrics.jsonl"

    @property
    def bad_steps(self) -> Path:
        """A JSON Lines file with one record per skipped step and its rows; absent if no step was skipped."""
        return self.path / "bad_steps.jsonl"

    @property
    def checkpoints(self) -> Path:
        """A folder with one folder per checkpoint."""
        return self.path / "checkpoints"

    def write_json(self, name: str, value: Any) -> Path:
        """Write a JSON file atomically, in rank 0 only, and return its path."""
        if self._lock is not None:
            write_json(self.path / name, value)
        return self.path / name

    def write_text(self, name: str, text: str) -> Path:
        """Write a text file atomically, in rank 0 only, and return its path."""
        if self._lock is not None:
            write_text(self.path / name, text)
        return self.path / name

    @property
    def has_records(self) -> bool:
        """True if the run has a checkpoint, a step, an evaluation or a round: something to continue from or to see."""
        has_metrics = self.metrics.exists() and self.metrics.stat().st_size > 0
        return has_metrics or self.checkpoints.exists() or (self.path / "rounds").exists()

    def close(self) -> None:
        """Release the lock, so that another process may write here."""
        if self._lock is not None:
            self._lock.close()

    def remove(self) -> None:
        """Delete the run directory with all that is in it, in rank 0 only."""
        if self._lock is not None:
            _empty(self.path)
            self.close()
            (self.path / LOCK).unlink(missing_ok=True)
            with suppress(OSError):  # not empty: another run has started here meanwhile
                self.path.rmdir()

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, TiltError) and self.is_new and not self.has_records:
            self.remove()
        elif self._lock is not None:
            write_ending(self.path, error)
        self.close()


def check_contents(path: Path, resume: bool = False, overwrite: bool = False) -> None:
    """Require that a run may start or continue in this folder. Call it before anything is loaded; it writes nothing.

    Raises:
        ConfigError: the folder holds a run and neither `resume` nor `overwrite` is set, or it holds something else, or
            there is no run to resume, or files cannot be written there.
    """
    if resume and overwrite:
        raise ConfigError(
            "--resume and --overwrite exclude each other: continue the run, or delete it and start again",
            code="conflict",
            key="--resume",
        )
    others = [name for name in check_output(path) if name not in (LOCK, WRITER)]
    holds_run = RunDirectory.MARKER in others
    if resume and not holds_run:
        raise ConfigError(
            f"{path}: there is no run to resume here; remove --resume to start one", code="no_run", key="--resume"
        )
    if holds_run and not (resume or overwrite):
        raise ConfigError(
            f"{path} already holds a run; continue it (--resume), delete it and start again (--overwrite), or choose "
            "another folder",
            code="already_holds_run",
            key="output",
        )
    if others and not holds_run:
        raise ConfigError(
            f"{path} is not empty and is not a run directory (it holds {others[0]}); choose a new or empty folder",
            code="not_empty",
            key="output",
        )


def check_output(path: Path) -> list[str]:
    """Require that files can be written in the folder of a run or a sweep, and return the names in it.

    The folder need not exist yet, and nothing is made.

    Raises:
        ConfigError: it is a file, a right is missing, the disk is read-only, a folder above it is a file, or a name is
            too long.
    """
    try:
        if path.is_file():
            raise ConfigError(f"{path} is a file; choose a folder for the run", code="not_a_folder", key="output")
        check_writable(path)
        return sorted(os.listdir(path)) if path.is_dir() else []
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be the folder of a run: {error.strerror} ({error.filename}). Choose a folder in which you "
            "may write files",
            code="not_writable",
            key="output",
        ) from error


def check_sweep(path: Path, resume: bool = False, overwrite: bool = False) -> None:
    """Require that a sweep may start or continue in this folder; it writes nothing.

    Raises:
        ConfigError: the folder is not empty and neither `resume` nor `overwrite` is set, or files cannot be written
            there.
    """
    if check_output(path) and not (resume or overwrite):
        raise ConfigError(
            f"{path} is not empty; continue the sweep there (--resume), run it again (--overwrite), or choose "
            "another folder",
            code="not_empty",
            key="output",
        )


def _prepare(path: Path, resume: bool, overwrite: bool) -> ExitStack:
    """Make or open the directory as `RunDirectory.open` says, and return its lock."""
    check_contents(path, resume, overwrite)
    path.mkdir(parents=True, exist_ok=True)
    lock = _locked(path)
    if overwrite:
        _empty(path)
    marker = path / RunDirectory.MARKER
    if not marker.exists():
        write_json(marker, {"format": 1, "created": _now()})
    return lock


def _locked(path: Path) -> ExitStack:
    """Take the lock of a run directory. The system releases it when the process ends, however it ends."""
    lock = ExitStack()
    if not lock.enter_context(try_lock(path / LOCK)):
        writer = read_writer(path)
        raise RunError(
            f"{path}: {'another process' if writer is None else f'{writer},'} is writing here; wait for it or stop it, "
            "or choose another folder",
            code="in_use",
            key="output",
        )
    lock.enter_context(beating(path, _now()))
    (path / ENDED).unlink(missing_ok=True)  # of a run that is continued
    return lock


def _empty(path: Path) -> None:
    """Delete the contents of a run directory, its marker last, so that a kill leaves what is still marked as a run."""
    for entry in sorted(path.iterdir(), key=lambda p: p.name == RunDirectory.MARKER):
        if entry.name in (LOCK, WRITER):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _now() -> str:
    """Return the present time in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
