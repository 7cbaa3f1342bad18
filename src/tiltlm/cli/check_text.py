"""Print what a check of data found: a table of findings, then the numbers."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tiltlm.core.notes import visible

if TYPE_CHECKING:
    from tiltlm.recipes.data.checked import CheckedData

STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}
WIDTH = 120
"""Columns of the table in a file."""
SHOWN = 2
"""Rows that are named below each finding. The page and JSON have more."""


def print_check(result: "CheckedData", console: Console | None = None) -> None:
    """Print checked data on stdout.

    Args:
        result: What was found.
        console: The console; None: stdout.
    """
    from tiltlm.report.data.check_report import sentences_of, verdict_of_check

    console = console or Console()
    if not console.is_terminal:
        console = Console(file=console.file, width=WIDTH)
    word, colour = verdict_of_check(result.report)
    style = {"worse": "bold red", "cautious": "bold yellow"}.get(colour, "bold green")
    console.print(Text.assemble((f"{word}. ", style), visible(" ".join(sentences_of(result.report)))))
    if result.findings:
        console.print(findings_table(result))
    console.print(Text(visible("\n".join(result.closing()))), soft_wrap=True)


def findings_table(result: "CheckedData") -> Table:
    """Return the findings as a table of the terminal."""
    from tiltlm.report.numbers import share

    table = Table(box=None, pad_edge=False, show_edge=False, header_style="dim")
    for name in ("", "code", "count", "share", "finding"):
        table.add_column(name, justify="right" if name in ("count", "share") else "left", overflow="fold")
    for finding in result.findings:
        rule = finding.rule
        said = Text(rule.cause)
        if finding.detail:
            said.append(f": {visible(finding.detail)}")
        said.append(f"\n→ {rule.fix}", style="dim")
        for example in finding.examples[:SHOWN]:
            said.append(f"\n  {visible(example)}", style="dim")
        level = Text(rule.level, style=STYLES[rule.level])
        table.add_row(level, rule.code, f"{finding.count:,}", share(finding.rate), said)
    return table
