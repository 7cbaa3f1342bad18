"""The run directory, which holds all results of a run; only one process writes to it.

It is enough to run again and to compare: resolved configuration, versions, digests, data accounting, metrics,
checkpoints and the report.
"""

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

from tiltlm.core.errors import ConfigError, TiltError
from tiltlm.distributed.launched import rank_timeout
from tiltlm.runs import lock
from tiltlm.runs.ending import ENDED, read_ending, write_ending
from tiltlm.runs.lock import WriteLock
from tiltlm.storage.files import check_writable, temporary_of, write_json, write_text

if TYPE_CHECKING:
    from tiltlm.distributed.ranks import Ranks


@dataclass(frozen=True)
class RunDirectory:
    """An open run directory. As a context manager it notes how the run ended, and releases the lock.

    A new run that one of our errors ends before its first record is deleted, so that it does not block the next try.
    """

    MARKER: ClassVar[str] = "run.json"
    """The file that marks a folder as a run directory. It is written first and deleted last."""

    path: Path
    _lock: WriteLock | None
    """The right to write. Rank 0 has it; the others have None and write nothing."""
    is_new: bool = False
    """True if the run is not continued. An error of ours before its first record then removes what was written."""
    was_finished: bool = False
    """True if a run is continued that had ended well. It stays so if one of our errors, such as a refusal, comes."""

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        resume: bool = False,
        overwrite: bool = False,
        ranks: "Ranks | None" = None,
        waits: bool = False,
    ) -> "RunDirectory":
        """Make a run directory, or open an existing one, and lock it against a second writer.

        Args:
            path: A new folder, an empty one, or a run directory.
            resume: Continue the run in it.
            overwrite: Delete the run in it.
            ranks: The processes of the run, which all open it together. None means this process only.
            waits: Wait for an earlier writer to end: this process may be its restart, on another machine.

        Raises:
            ConfigError: as `check_contents`.
            RunError: another process writes to it.
        """
        path = Path(path)
        own: list[tuple[WriteLock, bool]] = []

        def prepare() -> None:
            own.append(_prepare(path, resume, overwrite, waits))

        prepare() if ranks is None else ranks.first(prepare)
        lock_of_run, was_finished = own[0] if own else (None, False)
        return cls(path, lock_of_run, not resume, was_finished)

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
            self._lock.check()
            write_json(self.path / name, value)
        return self.path / name

    def write_text(self, name: str, text: str) -> Path:
        """Write a text file atomically, in rank 0 only, and return its path."""
        if self._lock is not None:
            self._lock.check()
            write_text(self.path / name, text)
        return self.path / name

    @property
    def has_records(self) -> bool:
        """True if the run has a checkpoint, a step, an evaluation or a round: something to continue from or to see."""
        has_metrics = self.metrics.exists() and self.metrics.stat().st_size > 0
        return has_metrics or self.checkpoints.exists() or (self.path / "rounds").exists()

    def check_writer(self) -> None:
        """Require that this process is still the writer; rank 0 calls it before it writes what others would keep.

        Raises:
            RunError: another process has taken over.
        """
        if self._lock is not None:
            self._lock.check()

    def close(self) -> None:
        """Release the lock, so that another process may write here."""
        if self._lock is not None:
            self._lock.close()

    def remove(self) -> None:
        """Delete the run directory with all that is in it, in rank 0 only."""
        if self._lock is not None:
            _empty(self.path)
            self.close()
            for name in lock.FILES:
                (self.path / name).unlink(missing_ok=True)
            with suppress(OSError):  # not empty: another run has started here meanwhile
                self.path.rmdir()

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, TiltError) and error.code == lock.TAKEN_OVER:
            pass  # what is there is the other process's
        elif isinstance(error, TiltError) and self.is_new and not self.has_records:
            self.remove()
        elif self._lock is not None:
            write_ending(self.path, None if self.was_finished and isinstance(error, TiltError) else error)
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
    unfinished = [temporary_of(path / name).name for name in (*lock.FILES, RunDirectory.MARKER)]  # a kill leaves them
    others = [name for name in check_output(path) if name not in (*lock.FILES, *unfinished)]
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


def check_start(path: Path, resume: bool, overwrite: bool, resume_if_exists: bool) -> bool:
    """Require that a run may start or continue in this folder as `check_contents` does; return whether it continues.

    Raises:
        ConfigError: as `check_contents`.
    """
    if resume_if_exists and (resume or overwrite):
        other = "--resume" if resume else "--overwrite"
        raise ConfigError(
            f"--resume-if-exists and {other} exclude each other; choose one", code="conflict", key="--resume-if-exists"
        )
    continues = resume or (resume_if_exists and (path / RunDirectory.MARKER).is_file())
    check_contents(path, continues, overwrite)
    return continues


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


def _prepare(path: Path, resume: bool, overwrite: bool, waits: bool) -> tuple[WriteLock, bool]:
    """Make or open the directory as `RunDirectory.open` says; return its lock, and whether its run had ended well."""
    check_contents(path, resume, overwrite)
    path.mkdir(parents=True, exist_ok=True)
    own = lock.take(path, rank_timeout() + lock.STALE if waits else 0.0)
    earlier = read_ending(path)
    (path / ENDED).unlink(missing_ok=True)  # of a run that is continued
    if overwrite:
        _empty(path)
    marker = path / RunDirectory.MARKER
    if not marker.exists():
        write_json(marker, {"format": 1, "created": lock.now()})
    return own, resume and earlier is not None and earlier.state == "finished"


def _empty(path: Path) -> None:
    """Delete the contents of a run directory, its marker last, so that a kill leaves what is still marked as a run."""
    for entry in sorted(path.iterdir(), key=lambda p: p.name == RunDirectory.MARKER):
        if entry.name in lock.FILES:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
