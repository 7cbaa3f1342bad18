"""Texts of models and strangers as the terminal shows them.

A character that a terminal would obey, or that changes how others look, is replaced by a visible name: escape
sequences cannot set titles, move the cursor or write to the clipboard, and turned directions cannot hide words.
Markdown is rendered without links that could be opened, and without colours of code, since the lexers of a
highlighter were not made for texts that want to be slow.
"""

import re
from collections.abc import Sequence
from typing import ClassVar

from markdown_it.token import Token
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.markdown import BlockQuote, CodeBlock, Heading, Markdown, MarkdownElement
from rich.padding import Padding
from rich.text import Text

from tiltlm.core.notes import visible
from tiltlm.labeling.web.rendering import markdown_parser
from tiltlm.labeling.words import Part

MAX_MARKDOWN = 40_000
"""Characters of a pair that are read as Markdown; a longer one is shown as it is."""
MAX_SHOWN = 100_000
"""Characters of a text that are shown: more would hold up the screen for seconds at each step."""
CHANGED = "bold underline on grey27"
"""Look of what differs in a word diff: to be seen without colours too."""
TAB = 4
TOP_HEADING = 3
"""Level that the parser gives to the highest headings: those above it belong to a page."""


def plain(text: str) -> Text:
    """Return a text as it is, its control characters visible. Of a very long one, the end is left out."""
    return Text(visible(text[:MAX_SHOWN]).expandtabs(TAB)).append_text(_left_out(len(text)))


def _left_out(length: int) -> Text:
    if length <= MAX_SHOWN:
        return Text()
    more = f"{length - MAX_SHOWN:,} more characters are not shown here: skip the pair, or judge it in the browser"
    return Text(f"\n({more})", style="bold")


def turns(content: Sequence[tuple[str, str]], *, is_raw: bool, has_roles: bool = False) -> RenderableType:
    """Return turns below each other, each with its role.

    Args:
        content: Role and text of every turn.
        is_raw: Show Markdown as it was written.
        has_roles: Name the role of a single turn of the user or the assistant too.
    """
    show = plain if is_raw else markdown
    if len(content) == 1 and content[0][0] in ("user", "assistant") and not has_roles:
        return show(content[0][1]) if content[0][1].strip() else _no_text()
    parts: list[RenderableType] = []
    for number, (role, text) in enumerate(content):
        parts += [Text("")] if number else []
        parts += [Text(f"{visible(role)}:", style="bold"), show(text) if text.strip() else _no_text()]
    return Group(*parts)


def _no_text() -> Text:
    return Text("(no text)", style="italic dim")


def diff(parts: Sequence[Part]) -> Text:
    """Return a side of a word diff. What the other side has not is marked, line ends too."""
    found = Text()
    length = 0
    for part in parts:
        text = visible(part.text[: max(0, MAX_SHOWN - length)]).expandtabs(TAB)
        length += len(part.text)
        if part.kind == "same":
            found.append(text)
        else:
            found.append(re.sub(r"\n", "↵\n", text) if not text.strip() else text, CHANGED)
    return found.append_text(_left_out(length))


def markdown(text: str) -> Markdown:
    """Return Markdown rendered: HTML is text, the address of a link or picture is shown beside its words."""
    made = PlainMarkdown("", hyperlinks=False)
    made.parsed = markdown_parser().parse(visible(text))
    for token in made.parsed:
        token.children = token.children and [_without_picture(child) for child in token.children]
    return made


def _without_picture(token: Token) -> Token:
    if token.type != "image":
        return token
    return Token("text", "", 0, content=f"[image: {token.content}] ({token.attrs.get('src', '')})")


class LeftHeading(Heading):
    """A heading at the left, as wide texts in narrow columns need it."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        del console, options
        level = int(self.tag[1]) - TOP_HEADING + 1
        yield Text("#" * level + " ").append_text(self.text)


class PlainCode(CodeBlock):
    """Code between two lines, without colours."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        del console, options
        code = Text(str(self.text).rstrip("\n").expandtabs(TAB))
        yield Padding(code, (0, 0, 0, 2), style="markdown.code_block")


class PlainQuote(BlockQuote):
    """A quote without a colour of its own."""

    style_name = "italic"


class PlainMarkdown(Markdown):
    """Markdown in the look of this module."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "heading_open": LeftHeading,
        "blockquote_open": PlainQuote,
        "fence": PlainCode,
        "code_block": PlainCode,
    }
