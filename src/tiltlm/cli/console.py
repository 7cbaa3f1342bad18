"""What the command line shows: notes and progress on stderr, results on stdout, errors with their way out."""

import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tiltlm.cli.launched import is_first

SECONDS_BETWEEN_LINES = 10.0
"""On no terminal, progress is a plain line this often."""


def begin_notes(verbose: bool = False) -> None:
    """Send the package's notes to stderr, one plain line each, and keep other libraries' bars and chatter out.

    Of several processes, the first one takes notes.
    """
    if not is_first():
        logging.getLogger("tiltlm").setLevel(logging.CRITICAL)
        warnings.simplefilter("ignore")
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log = logging.getLogger("tiltlm")
    log.handlers[:] = [handler]
    log.setLevel(logging.DEBUG if verbose else logging.INFO)
    log.propagate = False


def quiet_libraries() -> None:
    """No progress bars of transformers and datasets: two bars would fight."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    chatter: Any = transformers.utils.logging
    chatter.disable_progress_bar()
    chatter.set_verbosity_error()


@contextmanager
def progress() -> Iterator[Callable[..., None]]:
    """A `Progress` that draws: a bar with rate and time left on a terminal, a plain line now and then elsewhere.

    Of several processes, the first one draws.
    """
    if not is_first():
        from tiltlm.recipes.progress import silent

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
    """Lines such as `train 40/160 · 3.1/s · 39 s left · loss 0.61`, not more often than people can read."""

    def __init__(self) -> None:
        self._label = ""
        self._start = self._last = 0.0
        self._first = 0

    def __call__(self, label: str, done: int, total: int, /, **figures: float) -> None:
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
