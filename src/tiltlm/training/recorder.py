"""metrics.jsonl: one line a step or an evaluation, appended whole; and the same to trackers through Accelerate.

Names follow TRL. JSON has no NaN, so a number that is not finite is written as the string "NaN", "Infinity" or
"-Infinity", which Python's `float` reads back: a bad value is never shown as 0.
"""

import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiltlm.core.errors import ConfigError, RunError
from tiltlm.distributed.wrapping import Ranks
from tiltlm.runs.directory import RunDirectory, write_atomic

MetricsRecord = dict[str, Any]


def finite_json(value: Any) -> Any:
    """A JSON value without NaN or infinities, through mappings and lists."""
    if isinstance(value, Mapping):
        return {key: finite_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Append one JSON line in one write, so that lines never interleave.

    Raises:
        RunError: the disk is full or the file cannot be written.
    """
    line = (json.dumps(finite_json(record), ensure_ascii=False) + "\n").encode()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            written = os.write(descriptor, line)
        finally:
            os.close(descriptor)
        if written != len(line):
            raise OSError("only part of a line was written")
    except OSError as error:
        raise RunError(f"{path} could not be written ({error})", code="not_writable") from error


def read_lines(path: Path) -> list[MetricsRecord]:
    """The records of a JSON Lines file; a last line torn by a kill is left out.

    Raises:
        RunError: a line before the last is no JSON.
    """
    lines = path.read_bytes().splitlines() if path.exists() else []
    records: list[MetricsRecord] = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise RunError(
                    f"{path}:{number}: not JSON ({error}); the file was changed by hand or damaged",
                    code="damaged",
                    row=f"{path.name}:{number}",
                ) from error
    return records


def keep_lines(path: Path, keep: Callable[[MetricsRecord], bool]) -> list[MetricsRecord]:
    """Rewrite a JSON Lines file with the records to keep, whole; those records."""
    records = [record for record in read_lines(path) if keep(record)]
    write_atomic(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode())
    return records


def to_stderr(message: str) -> None:
    """Notes go to stderr: stdout is for results."""
    print(message, file=sys.stderr, flush=True)


def ignore(*heard: object) -> None:
    """Do nothing."""
    del heard


@dataclass(frozen=True)
class Listener:
    """What a caller hears of a run, in its first process."""

    note: Callable[[str], None] = to_stderr
    """A sentence for the user."""
    record: Callable[[MetricsRecord], None] = ignore
    """A line of metrics.jsonl."""
    step: Callable[[int, int], None] = ignore
    """Steps done, of how many."""


class Recorder:
    """Sends what happens in a run to its files, its trackers and its listener; in other processes than the first,
    nowhere."""

    def __init__(
        self, run: RunDirectory, trackers: Sequence[str], config: Mapping[str, Any], ranks: Ranks, listener: Listener
    ) -> None:
        self.history: list[MetricsRecord] = []
        self._run = run
        self._writes = ranks.is_first
        self._listener = listener
        self._accelerator = open_trackers(trackers, run.path, config, ranks) if trackers and ranks.is_first else None

    def note(self, message: str) -> None:
        """Tell the user."""
        if self._writes:
            self._listener.note(message)

    def stepped(self, done: int, total: int) -> None:
        """Tell how far the run is."""
        if self._writes:
            self._listener.step(done, total)

    def add(self, record: MetricsRecord) -> None:
        """Write a record and pass it on."""
        record = finite_json(record)
        self.history.append(record)
        if not self._writes:
            return
        append_line(self._run.metrics, record)
        if self._accelerator is not None:
            numbers = {key: value for key, value in record.items() if isinstance(value, int | float) and key != "step"}
            self._accelerator.log(numbers, step=record["step"])
        self._listener.record(record)

    def add_bad_step(self, record: MetricsRecord) -> None:
        """Write down the rows of a step that was skipped."""
        if self._writes:
            append_line(self._run.bad_steps, record)

    def rewind(self, step: int, evaluated_at: int) -> None:
        """Drop what was recorded after a checkpoint: the resumed run records it again.

        Args:
            step: Steps done in the checkpoint; −1 for none: drop everything.
            evaluated_at: Step of its last evaluation.
        """

        def is_past(record: MetricsRecord) -> bool:
            is_evaluation = "loss" not in record
            return bool(record["step"] <= (evaluated_at if is_evaluation else step))

        if self._writes:
            self.history = keep_lines(self._run.metrics, is_past)
            if self._run.bad_steps.exists():
                keep_lines(self._run.bad_steps, is_past)

    def close(self) -> None:
        """Let trackers write what they hold."""
        for tracker in self._accelerator.trackers if self._accelerator is not None else ():
            tracker.finish()


def open_trackers(names: Sequence[str], folder: Path, config: Mapping[str, Any], ranks: Ranks) -> Any:
    """TensorBoard, trackio or W&B, through Accelerate.

    Raises:
        ConfigError: one is not installed.
    """
    from accelerate import Accelerator  # imported here: nothing else of a run needs it

    accelerator = Accelerator(cpu=ranks.device.type == "cpu", log_with=list(names), project_dir=str(folder))
    if missing := {*names} - {str(found) for found in accelerator.log_with}:
        raise ConfigError(
            f"training.trackers: {', '.join(sorted(missing))} is not installed; install it or drop it",
            code="missing_dependency",
            key="training.trackers",
        )
    plain = {key: value if isinstance(value, int | float | str) else str(value) for key, value in config.items()}
    accelerator.init_trackers("tiltlm", config=plain)
    return accelerator
