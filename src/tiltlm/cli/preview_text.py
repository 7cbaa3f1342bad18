"""Token previews in a terminal: scored tokens in green, context in grey, the end token marked."""

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from tiltlm.core.notes import visible
from tiltlm.data.token_preview import Piece, Preview

STYLES = {"prompt": "dim", "response": "green", "end": "bold black on green", "unscored": "dim italic"}
LEGEND = (("prompt", "context"), ("response", "scored"), ("end", "end token, scored"), ("unscored", "not scored"))


def print_preview(previews: Sequence[Preview], console: Console | None = None) -> None:
    """Print these rows on stdout."""
    console = console or Console()
    legend = Text("  ").join(Text(words, style=STYLES[role]) for role, words in LEGEND)
    console.print(legend)
    for preview in previews:
        console.rule(Text(visible(preview.id)), align="left")
        for note in preview.notes:
            console.print(Text(visible(note), style="italic"))
        console.print(_line(f"prompt, {len(preview.prompt)} tokens", preview.prompt))
        for title, response in zip(preview.titles, preview.responses, strict=True):
            scored = sum(piece.role in ("response", "end") for piece in response)
            console.print(_line(f"{title}, {len(response)} tokens, {scored} scored", response))


def _line(title: str, pieces: Sequence[Piece]) -> Text:
    """Return tokens side by side with a thin bar between them, which shows every boundary."""
    text = Text(f"{visible(title)}\n", style="bold")
    for i, piece in enumerate(pieces):
        text.append("│" if i else "", style="dim blue")
        shown = visible(piece.text).replace("\n", "⏎\n").replace("\t", "⇥")
        text.append(shown, style=f"not bold {STYLES[piece.role]}")
    return text
