"""Show what a command does: the log and progress on stderr.

On a terminal the display is entered before anything heavy is imported, so that something is on the screen at once, and
so that handlers which libraries make for themselves write above the bar too.
"""

import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tiltlm.cli.launched import is_first
from tiltlm.recipes.progress import ProgressCallback, silent

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}
"""Variables of the environment that switch off progress bars and messages of libraries."""

SECONDS_BETWEEN_LINES = 10.0
"""Shortest time between two lines of progress if stderr is not a terminal."""


class StderrHandler(logging.Handler):
    """A handler that writes to the present `sys.stderr`: while a bar is drawn, rich prints these lines above it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        print(self.format(record), file=sys.stderr, flush=True)


def start_logging() -> None:
    """Send the log of tiltlm to stderr, one plain line per message. With several processes only rank 0 logs.

    Details (level DEBUG) are left out until `show_details` is called; the run's own log file has them.
    """
    log = logging.getLogger("tiltlm")
    if not is_first():
        log.setLevel(logging.CRITICAL)
        warnings.simplefilter("ignore")
        return
    handler = StderrHandler(logging.INFO)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers[:] = [handler]
    log.setLevel(logging.DEBUG)
    log.propagate = False


def show_details() -> None:
    """Print details as well: layout and precision, digests, what was stored and found in stores."""
    for handler in logging.getLogger("tiltlm").handlers:
        handler.setLevel(logging.DEBUG)


def print_error(message: str) -> None:
    """Print a message on stderr, its first word in red where the terminal has colours."""
    if not sys.stderr.isatty():
        print(f"error: {message}", file=sys.stderr)
        return
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True).print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)


def quiet_libraries() -> None:
    """Switch off the progress bars and messages of transformers and datasets; two bars would overwrite each other.

    They read this when they are imported, which takes seconds, so nothing is imported for it.
    """
    os.environ.update(QUIET)
    if "transformers" in sys.modules:  # a program that runs a command after it used the library
        library_log: Any = sys.modules["transformers"].utils.logging
        library_log.disable_progress_bar()
        library_log.set_verbosity_error()
    if "datasets" in sys.modules:
        sys.modules["datasets"].disable_progress_bars()


@contextmanager
def progress() -> Iterator[ProgressCallback]:
    """Show progress while it is entered: a bar with rate and time left on a terminal, else a line every ten seconds.

    With several processes only rank 0 shows it.
    """
    if not is_first():
        yield silent
        return
    if not sys.stderr.isatty():
        yield PlainProgress()
        return
    bars = new_bars()
    with bars:
        yield BarProgress(bars)


def new_bars() -> "Progress":
    """Return an empty display of progress bars on stderr, which disappears at its end."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    columns = (
        SpinnerColumn(), TextColumn("{task.description:<22}"), BarColumn(30), TextColumn("{task.fields[count]}"),
        TextColumn("{task.fields[rate]}"), TextColumn("{task.fields[figures]}", style="dim"),
    )  # fmt: skip
    return Progress(*columns, console=Console(stderr=True), transient=True)


class BarProgress:
    """Progress as one bar on a terminal; a stage of unknown length is a bar that moves to and fro."""

    def __init__(self, bars: "Progress") -> None:
        """Draw into a display that has been entered."""
        self._bars = bars
        self._label = ""
        self._pace = Pace(0)
        self._task: TaskID | None = None

    def __call__(self, label: str, done: int, total: int, /, **figures: float) -> None:
        """Show this state."""
        if label != self._label or done < self._pace.first:
            self._label, self._pace = label, Pace(done)
            if self._task is not None:
                self._bars.remove_task(self._task)
            self._task = self._bars.add_task(label, total=total or None, count="", rate="", figures="")
        assert self._task is not None
        self._bars.update(
            self._task,
            completed=done,
            count=f"{done:,}/{total:,}" if total else "",
            rate=" · ".join(self._pace.texts(done, total)),
            figures=_figures(figures),
            visible=done < total or total == 0,
        )


class PlainProgress:
    """Progress as lines such as `train 40/160 · 3.1/s · 39 s left · loss 0.61`."""

    def __init__(self) -> None:
        self._label = ""
        self._last = 0.0
        self._pace = Pace(0)

    def __call__(self, label: str, done: int, total: int, /, **figures: float) -> None:
        """Print a line if enough time has passed, or if this is the last unit, or once for a stage."""
        is_new = label != self._label
        if is_new:
            self._label, self._last, self._pace = label, time.monotonic(), Pace(done)
        if total == 0:
            if is_new:
                print(label, file=sys.stderr, flush=True)
            return
        if done < total and time.monotonic() - self._last < SECONDS_BETWEEN_LINES:
            return
        self._last = time.monotonic()
        parts = [f"{label} {done}/{total}", *self._pace.texts(done, total)]
        if figures:
            parts.append(_figures(figures))
        print(" · ".join(parts), file=sys.stderr, flush=True)


class Pace:
    """Speed of a stage since it began."""

    def __init__(self, first: int) -> None:
        """Begin now, with `first` units done."""
        self.first = first
        self._start = time.monotonic()

    def texts(self, done: int, total: int) -> list[str]:
        """Return the rate and the time left, or the time that the stage took; nothing before the first unit."""
        seconds = time.monotonic() - self._start
        if done <= self.first or seconds <= 0:
            return []
        rate = (done - self.first) / seconds
        left = duration((total - done) / rate) + " left" if done < total else f"took {duration(seconds)}"
        return [f"{rate:.3g}/s", left]


def duration(seconds: float) -> str:
    """Return a time as people say it: `12 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _figures(figures: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.4g}" for name, value in figures.items())
