"""Markdown to safe HTML.

Every text is written by a model or a stranger. Two independent steps protect the reader: the parser has raw HTML
turned off, and what it makes passes an allow-list of tags and attributes. Pictures are never loaded, because the
address of a picture tells its server who reads: the address is shown as text.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from html import escape
from typing import Any

import nh3
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token

from tiltlm.labeling.store.database import storable

MAX_MARKDOWN = 40_000
"""Characters of one item that are read as Markdown; what is beyond is shown as it is. A text made to be slow takes a
second at this length, and four times that at twice the length."""
CACHED = 2048
MAX_CACHED = 10_000
"""Longer texts are not kept, so that the cache stays below some 50 MB."""

TAGS = {
    *("a", "blockquote", "br", "code", "em", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre", "s"),
    *("strong", "table", "tbody", "td", "th", "thead", "tr", "ul"),
}
ATTRIBUTES: dict[str, set[str]] = {"*": set(), "a": {"href"}, "ol": {"start"}, "td": {"align"}, "th": {"align"}}
MATH = re.compile(
    r"\$\$.{1,2000}?\$\$|\\\(.{1,2000}?\\\)|\\\[.{1,2000}?\\\]|\$(?!\s)[^$\n]{1,500}(?<!\s)\$(?!\d)", re.DOTALL
)
"""Formulas. They are shown as they were written, so that no `_` or `*` is taken for emphasis."""


def to_html(text: str) -> str:
    """Return Markdown as safe HTML. Lone surrogates become U+FFFD, since HTML cannot hold them."""
    if len(text) > MAX_CACHED:
        return _render(text)
    return _render_cached(text)


def plain_html(text: str) -> str:
    """Return a text as safe HTML in which it looks as it is."""
    return f"<pre>{escape(storable(text), quote=False)}</pre>"


def _render(text: str) -> str:
    html = markdown_parser().render(storable(text))
    return nh3.clean(
        html,
        tags=TAGS,
        attributes=ATTRIBUTES,
        url_schemes={"http", "https", "mailto"},
        url_relative="deny",
        link_rel="noopener noreferrer nofollow",
        set_tag_attribute_values={"a": {"target": "_blank"}},
    ).strip()


@lru_cache(maxsize=CACHED)
def _render_cached(text: str) -> str:
    return _render(text)


@lru_cache(maxsize=1)
def markdown_parser() -> MarkdownIt:
    """Return the parser of all texts, for pages and for the terminal: HTML and formulas are text."""
    made = MarkdownIt("commonmark", {"html": False, "maxNesting": 30}).enable(["table", "strikethrough"])
    made.disable("reference")  # a definition such as `[1]: https://…` would not be shown at all
    made.inline.ruler.before("escape", "math", _math)
    made.core.ruler.push("headings", _fit_headings)
    made.core.ruler.push("alignment", _align)
    made.add_render_rule("image", _image)
    return made


def _math(state: StateInline, silent: bool) -> bool:
    """Take a formula as text."""
    if state.src[state.pos] not in "$\\":
        return False
    found = MATH.match(state.src, state.pos, state.posMax)
    if found is None:
        return False
    if not silent:
        state.push("text", "", 0).content = found.group()
    state.pos = found.end()
    return True


def _fit_headings(state: Any) -> None:
    """Set headings below those of the page, h1 and h2, and let no level be missing between two of them."""
    last = 2
    for token in state.tokens:
        if token.type == "heading_open":
            last = min(int(token.tag[1]) + 2, last + 1, 6)
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{last}"


def _align(state: Any) -> None:
    """Align cells of a table by attribute: the page allows no inline style."""
    for token in state.tokens:
        if token.type in ("th_open", "td_open") and "style" in token.attrs:
            token.attrs = {"align": str(token.attrs["style"]).removeprefix("text-align:")}


def _image(renderer: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    """Show a picture as its alternative text and its address."""
    token = tokens[index]
    alternative = renderer.renderInlineAsText(token.children or [], options, env)
    return escape(f"[image: {alternative}] ({token.attrs.get('src', '')})")
