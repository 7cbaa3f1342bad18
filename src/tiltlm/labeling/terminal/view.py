"""The parts of the screen: progress, prompt, two responses that scroll together, a line for messages, the keys."""

from collections.abc import Callable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Container, VerticalScroll
from textual.widgets import Static

from tiltlm.labeling.queue.contents import Contents, as_turns
from tiltlm.labeling.queue.work import Progress
from tiltlm.labeling.terminal.texts import MAX_MARKDOWN, diff, turns
from tiltlm.labeling.words import Part

LEFT, RIGHT = "1 Left", "2 Right"
BAR = 12
"""Width of the bar of progress."""

HELP = (
    ("1 ←", "the left response is better; in a narrow window, the upper one"),
    ("2 →", "the right response is better; in a narrow window, the lower one"),
    ("0", "tie: you cannot say which one is better"),
    ("b", "both bad: neither is of use"),
    ("s", "skip, with a reason"),
    ("u", "take back your newest vote"),
    ("n", "write a note, which is saved with your vote"),
    ("↑ ↓ j k", "scroll both responses; PgUp, PgDn, space, Home and End too"),
    ("r", "show texts as they were written, or Markdown again"),
    ("d", "mark the words that differ"),
    ("p", "show the whole prompt: system prompt and earlier turns"),
    ("g", "show the guidelines"),
    ("q", "quit; every vote is saved already"),
    ("1 2 3", "after a side, where the project asks how much better it is; Esc goes back"),
    ("␛", "such a sign in a text is a character that a terminal would obey"),
)

CSS = """
Screen { layout: vertical; }
#top { height: 1; padding: 0 1; }
#title { width: 1fr; text-overflow: ellipsis; text-wrap: nowrap; text-style: bold; }
#progress { width: auto; margin-left: 2; }
Pane { border-top: solid $foreground 40%; padding: 0 1; scrollbar-size-vertical: 1; }
Pane { border-title-style: bold; border-title-color: $foreground; border-subtitle-color: $foreground; }
#prompt { height: auto; max-height: 30%; }
#sides { height: 1fr; }
#sides Pane { height: 1fr; width: 1fr; }
.-wide #sides { layout: horizontal; }
.-wide #right { border-left: solid $foreground 40%; }
#finished { height: 1fr; padding: 2 4; }
#message { height: 1; padding: 0 1; text-overflow: ellipsis; text-wrap: nowrap; }
#message.-loud { text-style: reverse bold; height: auto; max-height: 3; text-wrap: wrap; }
#keys { height: 2; padding: 0 1; text-wrap: nowrap; }
ModalScreen { align: center middle; }
.dialog { width: 64; max-width: 96%; height: auto; max-height: 92%; border: round $foreground; padding: 0 1; }
.dialog { border-title-style: bold; border-title-color: $foreground; border-subtitle-color: $foreground; }
.dialog.wide { width: 96; }
.dialog VerticalScroll { height: auto; max-height: 100%; scrollbar-size-vertical: 1; }
.dialog OptionList { border: none; background: transparent; padding: 0; height: auto; max-height: 12; }
.dialog Input { border: none; background: transparent; padding: 0; height: 1; }
"""


class Pane(VerticalScroll, can_focus=False):
    """A text that scrolls."""

    def __init__(self, name: str, title: str) -> None:
        super().__init__(id=name)
        self.border_title = title

    def compose(self) -> ComposeResult:
        """Make the text."""
        yield Static(classes="text")

    def show(self, text: RenderableType) -> None:
        """Show a text from its start."""
        self.query_one(Static).update(text)
        self.scroll_to(y=0, animate=False, immediate=True)


class Sides(Container):
    """Two responses. Both are scrolled by as many lines, as far as each goes."""

    def compose(self) -> ComposeResult:
        """Make both."""
        yield Pane("left", LEFT)
        yield Pane("right", RIGHT)

    def on_mount(self) -> None:
        """Let each response follow the other."""
        left, right = self.query(Pane)
        self.watch(left, "scroll_y", self._follow(left, right), init=False)
        self.watch(right, "scroll_y", self._follow(right, left), init=False)

    @staticmethod
    def _follow(moved: Pane, other: Pane) -> Callable[[float], None]:
        def follow(y: float) -> None:
            is_at_end = y >= moved.max_scroll_y and other.scroll_y >= y
            if not is_at_end:
                other.scroll_to(y=min(y, other.max_scroll_y), animate=False, immediate=True)

        return follow

    def scroll_lines(self, lines: float) -> None:
        """Scroll both by lines."""
        longer = max(self.query(Pane), key=lambda pane: pane.max_scroll_y)
        longer.scroll_to(y=longer.scroll_y + lines, animate=False, immediate=True)

    @property
    def page(self) -> int:
        """The lines of a page, less one that stays."""
        return max(1, self.query(Pane).first().size.height - 2)

    def show(self, contents: Contents, *, is_raw: bool) -> None:
        """Show both responses of a pair. Both are read as Markdown, or neither, so that no side looks better."""
        sides = [as_turns(content, "assistant") for content in (contents.left, contents.right)]
        is_long = sum(len(text) for side in sides for _, text in side) > MAX_MARKDOWN
        mode = " · raw" if is_raw else " · raw, too long for Markdown" if is_long else ""
        self._show([turns(side, is_raw=is_raw or is_long) for side in sides], mode)

    def show_diff(self, parts: Sequence[Sequence[Part]]) -> None:
        """Show the word diff of both responses."""
        self._show([diff(own) for own in parts], " · word diff")

    def _show(self, texts: Sequence[RenderableType], mode: str) -> None:
        for pane, title, text in zip(self.query(Pane), (LEFT, RIGHT), texts, strict=True):
            pane.border_title = title + mode
            pane.show(text)


class Prompt(Pane):
    """The last turn of the prompt; what came before it is shown on request."""

    def show_prompt(self, contents: Contents, *, is_raw: bool) -> None:
        """Show the last turn, and say what came before."""
        *before, last = as_turns(contents.pair.prompt, "user") or [("user", "")]
        folded = [
            name
            for name, is_there in (("system prompt", contents.pair.system), (_earlier(len(before)), before))
            if is_there
        ]
        text = turns([last], is_raw=is_raw or len(last[1]) > MAX_MARKDOWN)
        self.show(Group(Text(f"({' and '.join(folded)}: p)", style="italic"), text) if folded else text)

    def say_if_cut(self) -> None:
        """Say below the text how to read all of it, if it is longer than its place."""
        self.border_subtitle = "p shows all" if self.max_scroll_y else ""


def _earlier(count: int) -> str:
    return "1 earlier turn" if count == 1 else f"{count} earlier turns"


def whole_prompt(contents: Contents, *, is_raw: bool) -> RenderableType:
    """Return the system prompt and all turns of a prompt."""
    system = [("system", contents.pair.system)] if contents.pair.system else []
    content = [*system, *as_turns(contents.pair.prompt, "user")]
    is_long = sum(len(text) for _, text in content) > MAX_MARKDOWN
    return turns(content, is_raw=is_raw or is_long, has_roles=True)


def key_table() -> Table:
    """Return what each key does."""
    table = Table.grid(padding=(0, 2))
    for keys, text in HELP:
        table.add_row(Text(keys, style="bold"), Text(text))
    return table


def progress_line(progress: Progress, pace: float | None) -> Text:
    """Return how far a person is, for the first line of the screen.

    Args:
        progress: Votes.
        pace: Votes an hour; None: not known yet.
    """
    if progress.calibration_left:
        return Text(f"calibration: {progress.calibration_left} left")
    total = progress.done + progress.left
    share = progress.done / total if total else 1.0
    filled = int(BAR * share)
    speed = "" if pace is None else f" · {pace:.0f} an hour"
    return Text(f"{'█' * filled}{'░' * (BAR - filled)} {progress.done} done · {progress.left} left{speed}")


def key_lines(*, has_ties: bool) -> Text:
    """Return the two lines at the end of the screen: keys, and what each does."""
    choices = [("1 ←", "left"), ("2 →", "right"), *([("0", "tie"), ("b", "both bad")] if has_ties else [])]
    choices += [("s", "skip"), ("u", "undo")]
    others = [
        ("n", "note"),
        ("r", "raw"),
        ("d", "diff"),
        ("p", "prompt"),
        ("g", "guidelines"),
        ("?", "help"),
        ("q", "quit"),
    ]
    lines = [
        Text("   ").join(Text.assemble((key, "bold"), f" {name}") for key, name in line) for line in (choices, others)
    ]
    return Text("\n").join(lines)
