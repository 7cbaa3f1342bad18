"""metrics.jsonl: one line a step or an evaluation, appended whole; and the same to trackers through Accelerate.

Names follow TRL. JSON has no NaN, so a number that is not finite is written as the string "NaN", "Infinity" or
"-Infinity", which Python's `float` reads back: a bad value is never shown as 0.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiltlm.core.errors import ConfigError
from tiltlm.distributed.ranks import Ranks
from tiltlm.runs.directory import RunDirectory
from tiltlm.storage.files import append_line, finite_json, keep_lines

MetricsRecord = dict[str, Any]


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
