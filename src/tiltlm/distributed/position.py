"""Where this process is in a run, for messages about processes that wait for each other.

The trainer and the recipes set phase, step and row; nothing is exchanged between processes here. The place in the code
is read from the stack of the main thread, so it needs no cooperation.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from tiltlm.distributed.repeating import repeating

_PACKAGE = Path(__file__).parents[1]
TICK = 1.0
"""Seconds between two ticks of `at_work`."""
_TORCH_DISTRIBUTED = os.path.join("torch", "distributed") + os.sep


@dataclass
class Position:
    """Phase, step and row of this process. There is one object a process, `HERE`."""

    phase: str = "start"
    step: int | None = None
    row: str | None = None
    """The first row of the pack that is computed."""
    ticks: int = 0
    """Number of changes: a process that changes its position is at work."""

    def enter(self, phase: str, step: int | None = None) -> None:
        """Begin a phase, or a step of it."""
        self.phase, self.step, self.row = phase, step, None
        self.ticks += 1

    def tick(self) -> None:
        """Note that this process is at work, from any thread: the main thread may wait for it."""
        self.ticks += 1

    def note(self, phase: str) -> None:
        """Note progress of a phase; the step stays as long as the phase does."""
        if phase == self.phase:
            self.tick()
        else:
            self.enter(phase)

    def at_row(self, row: str) -> None:
        """Set the first row of the pack that begins."""
        self.row = row
        self.ticks += 1

    @property
    def text(self) -> str:
        """The position as a part of a message: `train, step 12, row pairs.jsonl:7`."""
        step = "" if self.step is None else f", step {self.step}"
        row = "" if self.row is None else f", row {self.row}"
        return f"{self.phase}{step}{row}"


HERE = Position()


@contextmanager
def at_work(phase: str) -> Iterator[None]:
    """Note in the block that this process is at work, although its main thread only waits.

    Use it for what may take longer than the limit of the watchdog and has a limit of its own, such as an upload.

    Args:
        phase: The phase that begins.
    """
    HERE.enter(phase)
    with repeating(HERE.tick, TICK, "tiltlm-at-work"):
        yield


class Place(NamedTuple):
    """The place in the code at which the main thread is."""

    call: str
    """The innermost function of tiltlm outside this folder: `refuse_different (recipes/train.py:113)`."""
    waits: bool
    """True inside a collective operation of torch."""
    state: int
    """Changes when the thread has run any Python code in between, except for a loop that is at the same place again."""


def main_place() -> Place:
    """Return the place at which the main thread is now."""
    frame: FrameType | None = sys._current_frames().get(threading.main_thread().ident or 0)
    call, waits, points = "", False, []
    while frame is not None:
        file = frame.f_code.co_filename
        points.append((id(frame.f_code), frame.f_lasti))
        waits = waits or _TORCH_DISTRIBUTED in file
        if not call and _is_own(file):
            call = f"{frame.f_code.co_name} ({Path(file).relative_to(_PACKAGE).as_posix()}:{frame.f_lineno})"
        frame = frame.f_back
    return Place(call, waits, hash(tuple(points)))


def main_cpu_seconds() -> float:
    """Return the processor time of the main thread; 0 on systems that do not tell."""
    clock = getattr(time, "pthread_getcpuclockid", None)
    main = threading.main_thread().ident
    return 0.0 if clock is None or main is None else time.clock_gettime(clock(main))


def _is_own(file: str) -> bool:
    """Return whether a file is one of tiltlm, outside this folder and the command line around every command."""
    if not file.startswith(str(_PACKAGE) + os.sep):
        return False
    return Path(file).relative_to(_PACKAGE).parts[0] not in ("distributed", "cli", "__main__.py")


def host() -> str:
    """Return the name of this machine."""
    return socket.gethostname()
