"""Send records to trackers without ever waiting for them: a tracker that fails or hangs is left out, the run goes on.

Names are grouped as `train/…`, `eval/…` and `round/…`. A run keeps its identity, so that a resumed run continues its
curves. Steps that a resumed run repeats were sent before, and are not sent twice.
"""

import logging
import queue
import secrets
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tiltlm.core.errors import RunError
from tiltlm.storage.files import read_json, write_json
from tiltlm.training.packages import check_trackers
from tiltlm.training.tracking.services import SERVICES, Numbers, Service

log = logging.getLogger(__name__)

IDENTITY = "trackers.json"
WAITING = 10_000
"""Most records that wait for a tracker."""
CLOSING = 60.0
"""Seconds that a tracker gets at the end of a run for what it has not sent."""


class Sender:
    """Sends numbers to one tracker, from a thread of its own."""

    def __init__(self, name: str, service: Service) -> None:
        self.is_working = True
        self._name, self._service = name, service
        self._waiting: queue.Queue[tuple[Numbers, int] | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._work, name=f"tiltlm-{name}", daemon=True)
        self._thread.start()

    def send(self, numbers: Numbers, step: int) -> None:
        """Send numbers when the tracker takes them."""
        if self.is_working:
            try:
                self._waiting.put_nowait((numbers, step))
            except queue.Full:
                self._give_up(f"it has not taken {WAITING:,} records")

    def close(self, seconds: float = CLOSING) -> None:
        """Wait for what was not sent yet, at most this long."""
        if self.is_working:
            try:
                self._waiting.put_nowait(None)
            except queue.Full:
                self._give_up(f"it has not taken {WAITING:,} records")
                return
            self._thread.join(seconds)
            if self._thread.is_alive():
                self._give_up(f"it did not end within {seconds:g} seconds")

    def _work(self) -> None:
        try:
            for numbers, step in iter(self._waiting.get, None):
                self._service.log(numbers, step)
            self._service.finish()
        except Exception as error:  # each tracker has its own classes
            self._give_up(f"{type(error).__name__}: {error}")

    def _give_up(self, reason: str) -> None:
        self.is_working = False
        log.warning(
            "training.trackers: %s failed (%s). The run goes on without it; metrics.jsonl has all records",
            self._name,
            reason,
            extra={"event": "tracker_failed", "tracker": self._name},
        )


class Trackers:
    """All trackers of a run."""

    def __init__(self, senders: Sequence[Sender] = ()) -> None:
        self._senders = tuple(senders)
        self._sent: set[tuple[int, bool]] = set()

    def add(self, record: Mapping[str, Any]) -> None:
        """Send a record of metrics.jsonl, unless it repeats one that was sent before the run was resumed."""
        is_evaluation = is_of_evaluation(record)
        if (record["step"], is_evaluation) not in self._sent:
            self._send(grouped(record, is_evaluation), record["step"])

    def add_round(self, card: Mapping[str, Any], step: int) -> None:
        """Send the numbers of a round of a loop.

        Args:
            card: The round, as plain values. Intervals are mappings.
            step: Optimiser steps done.
        """
        self._send(of_round(card), step)

    def mark_sent(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Note records that were sent and that the resumed run will repeat."""
        self._sent = {(record["step"], is_of_evaluation(record)) for record in records}

    def close(self) -> None:
        """Have the trackers write or send what they hold."""
        for sender in self._senders:
            sender.close()

    def _send(self, numbers: Numbers, step: int) -> None:
        for sender in self._senders:
            sender.send(numbers, step)


def is_of_evaluation(record: Mapping[str, Any]) -> bool:
    """Return whether a record of metrics.jsonl is an evaluation: those of steps have a loss."""
    return "loss" not in record


def grouped(record: Mapping[str, Any], is_evaluation: bool) -> dict[str, float]:
    """Return the numbers of a record, by the names that trackers show."""
    found = {}
    for key, value in record.items():
        if isinstance(value, int | float) and key != "step" and not (is_evaluation and key == "epoch"):
            found[f"{'eval' if is_evaluation else 'train'}/{key.removeprefix('eval_')}"] = float(value)
    return found


def of_round(card: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a round, intervals as three of them."""
    found: dict[str, float] = {}
    for key, value in card.items():
        if isinstance(value, Mapping) and "estimate" in value:
            ends = {"": value["estimate"], "_low": value["low"], "_high": value["high"]}
            found |= {f"round/{key}{end}": float(number) for end, number in ends.items() if number is not None}
        elif isinstance(value, int | float):
            found["round/number" if key == "round" else f"round/{key}"] = float(value)
    return found


def open_trackers(names: Sequence[str], folder: Path, config: Mapping[str, Any], *, is_new: bool) -> Trackers:
    """Open the trackers of a run.

    Args:
        names: Their names in `training.trackers`.
        folder: The run directory.
        config: The settings that they show.
        is_new: False for a run that is continued: a tracker that cannot start is then left out with a warning,
            because an unattended run must go on.

    Raises:
        ConfigError: one of them is not installed.
        RunError: the run is new and one of them cannot start, for example because it needs a login.
    """
    check_trackers(names)
    plain = {key: value if isinstance(value, int | float | str) else str(value) for key, value in config.items()}
    senders = []
    for name in names:
        try:
            senders.append(Sender(name, SERVICES[name](folder, _identity(folder), plain)))
        except Exception as error:  # each tracker has its own classes
            if is_new:
                raise RunError(
                    f"training.trackers: {name} could not start: {error}. Log in or connect, or leave it out",
                    code="tracker_failed",
                    key="training.trackers",
                ) from error
            log.warning(
                "training.trackers: %s could not start (%s). The run goes on without it; metrics.jsonl has all records",
                name,
                error,
                extra={"event": "tracker_failed", "tracker": name},
            )
    return Trackers(senders)


def _identity(folder: Path) -> str:
    """Return the name under which trackers know a run; a resumed run has the one that it began with."""
    known = read_json(folder / IDENTITY)
    if known is None:
        known = {"id": secrets.token_hex(4)}
        write_json(folder / IDENTITY, known)
    return str(known["id"])
