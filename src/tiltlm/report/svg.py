"""Matplotlib figures as inline SVG with the fonts and colours of the page, in light and dark mode, without URLs.

A figure is drawn in placeholder colours. Each of them becomes a CSS variable. Text stays text.
"""

import io
import re
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

COLOURS = {
    "ink": "#010101",
    "muted": "#020202",
    "grid": "#030303",
    "first": "#040404",
    "second": "#050505",
    "third": "#060606",
    "card": "#070707",
}
"""Placeholder colour of each CSS variable that style.css defines."""
INK, MUTED, GRID, FIRST, SECOND, THIRD, CARD = COLOURS.values()

STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: small, selectable, in the page's font
    "svg.hashsalt": "tiltlm",  # ids by content: the same run gives the same bytes
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib, so that layouts are the same everywhere
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.labelsize": 9,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "text.color": INK,
    "text.parse_math": False,  # a run's name is no formula
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.labelcolor": MUTED,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


def styled() -> AbstractContextManager[None]:
    """Return a context in which figures are drawn in the style of the page."""
    return mpl.rc_context(STYLE)


def figure(width: float, height: float) -> Figure:
    """Return an empty figure of this size in inches, 72 SVG units each. Draw on it inside `styled()`."""
    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(made)
    return made


def inline(made: Figure, name: str, description: str) -> Markup:
    """Return the figure as an `<svg>` element.

    Args:
        made: A figure drawn inside `styled()` in the placeholder colours.
        name: A name that is unique on the page. It is a prefix of all ids in the figure.
        description: Text for readers who cannot see the figure.
    """
    buffer = io.StringIO()
    with styled():
        made.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\s(?:xmlns(?::\w+)?|version)="[^"]*"', "", text)
    text = text.replace("xlink:href=", "href=")
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    text = re.sub(r"(font: [\d.]+px|font-family:) [^;\"]*", r"\1 var(--sans)", text)
    for variable, placeholder in COLOURS.items():
        text = text.replace(placeholder, f"var(--{variable})")
    label = str(escape(description))
    width, height = (round(72 * inches) for inches in made.get_size_inches())
    text = re.sub(
        r"<svg[^>]*>",
        f'<svg class="figure" role="img" aria-label="{label}" viewBox="0 0 {width} {height}" '
        f'style="max-width: {round(1.25 * width)}px">',
        text,
        count=1,
    )
    return Markup(text)
