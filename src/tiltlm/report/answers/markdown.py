"""A Markdown summary of a page, to be pasted into a pull request or a model card."""

from collections.abc import Sequence
from pathlib import Path

from tiltlm.report.page import write
from tiltlm.report.tables import Cell, Table


def markdown_summary(
    title: str, sentences: Sequence[str], tables: Sequence[Table] = (), cautions: Sequence[str] = (), footer: str = ""
) -> str:
    """Return the most important parts of a page as Markdown.

    Args:
        title: Heading.
        sentences: What came out, one paragraph each.
        tables: Tables of the page, with their numbers and intervals.
        cautions: What limits it.
        footer: Last line, in small print: the command, or where the page is.
    """
    parts = [f"### {_plain(title)}", *map(_plain, sentences)]
    if cautions:
        parts.append("\n".join(f"- {_plain(caution)}" for caution in cautions))
    parts += [_table(table) for table in tables]
    if footer:
        parts.append(f"<sub>{_plain(footer)}</sub>")
    return "\n\n".join(parts) + "\n"


def write_markdown(path: Path, text: str) -> Path:
    """Write a summary, and return its path."""
    write(path, text)
    return path


def _table(table: Table) -> str:
    rows = [[table.row_heading or " ", *table.columns], *([row.name, *map(_cell, row.cells)] for row in table.rows)]
    lines = ["| " + " | ".join(map(_in_table, row)) + " |" for row in rows]
    lines.insert(1, "|---" + "|---:" * len(table.columns) + "|")
    heading = [f"**{_plain(table.title)}**", ""] if table.title else []
    return "\n".join([*heading, *lines])


def _cell(cell: Cell) -> str:
    return f"{cell.value} ({cell.note})" if cell.note else cell.value


def _plain(text: str) -> str:
    """Return text whose special characters show as they are, on one line."""
    for sign in "\\`*_[]<>#|":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())


def _in_table(text: str) -> str:
    return _plain(text) or " "
