"""Show what a command does: the log and progress on stderr."""

import logging
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tiltlm.cli.launched import is_first
from tiltlm.recipes.progress import ProgressCallback, silent

SECONDS_BETWEEN_LINES = 10.0
"""Shortest time between two lines of progress if stderr is not a terminal."""


class StderrHandler(logging.Handler):
    """A handler that writes to the present `sys.stderr`: while a bar is drawn, rich prints these lines above it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        print(self.format(record), file=sys.stderr, flush=True)


def start_logging() -> None:
    """Send the log of tiltlm to stderr, one plain line per message. With several processes only rank 0 logs."""
    log = logging.getLogger("tiltlm")
    if not is_first():
        log.setLevel(logging.CRITICAL)
        warnings.simplefilter("ignore")
        return
    handler = StderrHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False


def quiet_libraries() -> None:
    """Switch off the progress bars and messages of transformers and datasets; two bars would overwrite each other."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    library_log: Any = transformers.utils.logging
    library_log.disable_progress_bar()
    library_log.set_verbosity_error()


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
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description:<22}"), BarColumn(30), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(), TextColumn("{task.fields[figures]}"),
    )  # fmt: skip
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, tuple[Any, float, int]] = {}

        def draw(label: str, done: int, total: int, /, **figures: float) -> None:
            if label not in tasks or done < tasks[label][2]:
                task = bars.add_task(label, total=total, rate="", figures="") if label not in tasks else tasks[label][0]
                tasks[label] = (task, time.monotonic(), done)
            task, start, first = tasks[label]
            seconds = time.monotonic() - start
            rate = f"{(done - first) / seconds:.3g}/s" if done > first and seconds > 0 else ""
            bars.update(task, completed=done, total=total, rate=rate, figures=_figures(figures), visible=done < total)

        yield draw


class PlainProgress:
    """Progress as lines such as `train 40/160 · 3.1/s · 39 s left · loss 0.61`."""

    def __init__(self) -> None:
        self._label = ""
        self._start = self._last = 0.0
        self._first = 0

    def __call__(self, label: str, done: int, total: int, /, **figures: float) -> None:
        """Print a line if enough time has passed, or if this is the last unit."""
        now = time.monotonic()
        if label != self._label:
            self._label, self._start, self._last, self._first = label, now, now, done
        if done < total and now - self._last < SECONDS_BETWEEN_LINES:
            return
        self._last, seconds = now, now - self._start
        parts = [f"{label} {done}/{total}"]
        if done > self._first and seconds > 0:
            rate = (done - self._first) / seconds
            parts.append(f"{rate:.3g}/s")
            parts.append(f"{(total - done) / rate:.0f} s left" if done < total else f"took {seconds:.1f} s")
        if figures:
            parts.append(_figures(figures))
        print(" · ".join(parts), file=sys.stderr, flush=True)


def _figures(figures: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.4g}" for name, value in figures.items())
