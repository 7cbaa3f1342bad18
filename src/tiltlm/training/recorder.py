"""Record metrics: one line of metrics.jsonl a step or an evaluation, and the same numbers for trackers.

Names follow TRL. JSON has no NaN, so a number that is not finite is written as the string "NaN", "Infinity" or
"-Infinity", which Python's `float` reads back: a bad value is never shown as 0.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tiltlm.distributed.ranks import Ranks
from tiltlm.runs.directory import RunDirectory
from tiltlm.storage.files import append_line, finite_json, keep_lines, read_lines
from tiltlm.training.tracking import Trackers, open_trackers
from tiltlm.training.tracking.trackers import is_of_evaluation

MetricsRecord = dict[str, Any]


def to_stderr(message: str) -> None:
    """Print a note on stderr: stdout is for results."""
    print(message, file=sys.stderr, flush=True)


def ignore(*values: object) -> None:
    """Do nothing."""
    del values


@dataclass(frozen=True)
class Listener:
    """Functions of a caller that rank 0 calls during a run."""

    note: Callable[[str], None] = to_stderr
    """Called with a sentence for the user."""
    record: Callable[[MetricsRecord], None] = ignore
    """Called with each record of metrics.jsonl."""
    step: Callable[[int, int], None] = ignore
    """Called after each step with the number of steps done and of all steps."""


class Recorder:
    """Writes the records of a run to its files, its trackers and its listener. Only rank 0 writes."""

    def __init__(
        self, run: RunDirectory, trackers: Sequence[str], config: Mapping[str, Any], ranks: Ranks, listener: Listener
    ) -> None:
        self.history: list[MetricsRecord] = []
        """All records so far, in every process."""
        self._metrics, self._bad_steps = run.metrics, run.bad_steps
        self._writes = ranks.is_first
        self._listener = listener
        self._trackers = Trackers()
        if trackers and ranks.is_first:
            self._trackers = open_trackers(trackers, run.path, config, is_new=run.is_new)

    def note(self, message: str) -> None:
        """Send a sentence to the user."""
        if self._writes:
            self._listener.note(message)

    def stepped(self, done: int, total: int) -> None:
        """Report that `done` of `total` steps are done."""
        if self._writes:
            self._listener.step(done, total)

    def add(self, record: MetricsRecord) -> None:
        """Append a record to metrics.jsonl and send it to the trackers and the listener."""
        record = finite_json(record)
        self.history.append(record)
        if not self._writes:
            return
        append_line(self._metrics, record)
        self._trackers.add(record)
        self._listener.record(record)

    def add_round(self, card: Mapping[str, Any], step: int) -> None:
        """Send the numbers of a round to the trackers; its own files hold them already.

        Args:
            card: The round, as plain values.
            step: Optimiser steps done.
        """
        if self._writes:
            self._trackers.add_round(card, step)

    def add_bad_step(self, record: MetricsRecord) -> None:
        """Append a record of a skipped step to bad_steps.jsonl."""
        if self._writes:
            append_line(self._bad_steps, record)

    def rewind(self, step: int, evaluated_at: int) -> None:
        """Remove the records after a checkpoint: the resumed run records them again.

        Args:
            step: Steps done in the checkpoint; 0 to remove the records of all steps.
            evaluated_at: Step of its last evaluation; −1 to remove all evaluations.
        """

        def is_past(record: MetricsRecord) -> bool:
            return bool(record["step"] <= (evaluated_at if is_of_evaluation(record) else step))

        if self._writes:
            known = read_lines(self._metrics)
            self._trackers.mark_sent([record for record in known if not is_past(record)])
            self.history = keep_lines(self._metrics, is_past)
            if self._bad_steps.exists():
                keep_lines(self._bad_steps, is_past)

    def close(self) -> None:
        """Have the trackers write or send what they hold."""
        self._trackers.close()
