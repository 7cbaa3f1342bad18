"""Progress of a recipe: the callback that it calls, and displays of it for a terminal, a file and a notebook.

On a terminal the display is entered before anything heavy is imported, so that something is on the screen at once, and
so that handlers which libraries make for themselves write above the bar too.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from tiltlm.distributed.position import HERE

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

SECONDS_BETWEEN_LINES = 10.0
"""Shortest time between two lines of progress if stderr is not a terminal."""
SECONDS_BETWEEN_DRAWINGS = 0.1
"""Shortest time between two states of the line in a notebook."""


class ProgressCallback(Protocol):
    """A function that is called as work proceeds."""

    def __call__(self, label: str, done: int, total: int, /, **figures: float) -> None:
        """Take note that `done` of `total` units of `label` are done; `figures` are worth showing beside that.

        A total of 0 means that `label` has begun and that its length is unknown.
        """
        ...


def silent(label: str, done: int, total: int, /, **figures: float) -> None:
    """Show nothing. As with every callback here, the progress is noted as a sign of life of this process."""
    del done, total, figures
    HERE.note(label)


@contextmanager
def display(progress: ProgressCallback | bool | None) -> Iterator[ProgressCallback]:
    """Yield the callback for a recipe that is called from Python.

    Args:
        progress: True shows progress where the code runs (`show_progress`). False or None shows nothing. A function is
            the callback itself.
    """
    if callable(progress):
        yield progress if progress is silent else _noted(progress)
    elif progress:
        with show_progress() as draw:
            yield draw if draw is silent else _noted(draw)
    else:
        yield silent


def _noted(progress: ProgressCallback) -> ProgressCallback:
    """Return a callback that notes progress as a sign of life of this process, and passes it on."""

    def note(label: str, done: int, total: int, /, **figures: float) -> None:
        HERE.note(label)
        progress(label, done, total, **figures)

    return note


@contextmanager
def show_progress() -> Iterator[ProgressCallback]:
    """Show progress inside the block: in a notebook as one line of the cell's output, on a terminal as a bar.

    Elsewhere it is a line on stderr every ten seconds. With several processes only rank 0 shows it.
    """
    if not is_first():
        yield silent
    elif in_notebook():
        line = LineProgress()
        try:
            yield line
        finally:
            line.close()
    elif sys.stderr.isatty():
        with new_bars() as bars:
            yield BarProgress(bars)
    else:
        yield PlainProgress()


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Switch off the progress bars and messages of transformers and datasets inside the block.

    Two bars would overwrite each other, and what their messages say is checked and said by tiltlm.
    """
    import datasets
    import transformers

    library_log: Any = transformers.utils.logging
    verbosity, has_bar = library_log.get_verbosity(), library_log.is_progress_bar_enabled()
    has_dataset_bars = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    library_log.disable_progress_bar()
    library_log.set_verbosity_error()
    try:
        yield
    finally:
        library_log.set_verbosity(verbosity)
        if has_bar:
            library_log.enable_progress_bar()
        if has_dataset_bars:
            datasets.enable_progress_bars()


def is_first() -> bool:
    """Return whether this process is rank 0, the one that prints."""
    return os.environ.get("RANK", "0") == "0"


def in_notebook() -> bool:
    """Return whether the code runs in the kernel of a notebook."""
    shell: Any = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and hasattr(shell, "kernel")


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
        print(_line(label, done, total, self._pace, figures), file=sys.stderr, flush=True)


class LineProgress:
    """Progress as one line that is written over, for a notebook; its widgets are not needed."""

    def __init__(self) -> None:
        self._label = ""
        self._last = 0.0
        self._pace = Pace(0)
        self._width = 0

    def __call__(self, label: str, done: int, total: int, /, **figures: float) -> None:
        """Write the line again if enough time has passed, or if a stage begins or ends."""
        is_new = label != self._label or done < self._pace.first
        if is_new:
            self._label, self._pace = label, Pace(done)
        elif total == 0 or (done < total and time.monotonic() - self._last < SECONDS_BETWEEN_DRAWINGS):
            return
        self._last = time.monotonic()
        self._write(_line(label, done, total, self._pace, figures))

    def close(self) -> None:
        """Remove the line."""
        self._write("")
        print("\r", end="", flush=True)

    def _write(self, text: str) -> None:
        print(f"\r{text.ljust(self._width)}", end="", flush=True)
        self._width = len(text)


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


def _line(label: str, done: int, total: int, pace: Pace, figures: dict[str, float]) -> str:
    """Return a stage as text: how far it is, its rate, the time left, and the figures."""
    counted = f"{label} {done}/{total}" if total else label
    return " · ".join([counted, *(pace.texts(done, total) if total else ()), *([_figures(figures)] if figures else ())])


def _figures(figures: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.4g}" for name, value in figures.items())
