"""The end of a command in a terminal: what came out, with the verdict's words in colour."""

from typing import Any

from rich.console import Console
from rich.text import Text

from tiltlm.core.notes import visible

COLOURS = {"better": "green", "worse": "red"}
"""Colour of a verdict on the page → its colour here; all others are yellow."""


def print_summary(result: Any, console: Console | None = None) -> None:
    """Print the summary of a finished run or sweep on stdout.

    Args:
        result: Its `summary()` is printed; a run's `report` gives the colour.
        console: The console; None: stdout.
    """
    console = console or Console()
    head, gap, rest = visible(result.summary()).partition("\n\n")
    text = Text(head)
    if (report := getattr(result, "report", None)) is not None:
        from tiltlm.report import RunReport, verdict_of  # it takes seconds, and only a run has one

        if isinstance(report, RunReport):
            verdict = verdict_of(report)
            start = len(verdict.question) + 1
            text.stylize(f"bold {COLOURS.get(verdict.colour, 'yellow')}", start, start + len(verdict.word))
    console.print(text, soft_wrap=not console.is_terminal)  # a file gets whole lines
    console.print(Text(gap[1:] + rest), soft_wrap=True)  # so that a terminal's paths and commands can be copied
