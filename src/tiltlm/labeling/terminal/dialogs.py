"""Windows over the pair: texts to read, a reason of a skip, a note, a question."""

from collections.abc import Sequence
from typing import ClassVar

from rich.console import RenderableType
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.events import Key
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from tiltlm.core.notes import visible
from tiltlm.labeling.queue.ballots import MAX_NOTE


def window(heading: str, hint: str, *, is_wide: bool = False) -> Vertical:
    """Return a window, with what it is above and what its keys do below."""
    made = Vertical(classes="dialog wide" if is_wide else "dialog")
    made.border_title, made.border_subtitle = heading, hint
    return made


class TextDialog(ModalScreen[None]):
    """A text to read, which scrolls."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,space,q,question_mark", "dismiss(None)", "Close"),
        Binding("up,k", "scroll(-1)"),
        Binding("down,j", "scroll(1)"),
        Binding("pageup", "scroll_page(-1)"),
        Binding("pagedown", "scroll_page(1)"),
        Binding("home", "scroll_page(-1000000)"),
        Binding("end", "scroll_page(1000000)"),
    ]

    def __init__(self, heading: str, body: RenderableType) -> None:
        super().__init__()
        self.heading, self.body = heading, body

    def compose(self) -> ComposeResult:
        """Make the window."""
        with window(self.heading, "↑ ↓ scroll · Enter closes", is_wide=True), VerticalScroll(can_focus=False):
            yield Static(self.body)

    def action_scroll(self, lines: int) -> None:
        """Scroll by lines."""
        self.query_one(VerticalScroll).scroll_relative(y=lines, animate=False)

    def action_scroll_page(self, pages: int) -> None:
        """Scroll by pages."""
        area = self.query_one(VerticalScroll)
        area.scroll_relative(y=pages * max(1, area.size.height - 1), animate=False)


class SkipDialog(ModalScreen[str | None]):
    """The reasons of a skip. A digit chooses one; None: the pair is not skipped."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Cancel")]

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__()
        self.reasons = reasons

    def compose(self) -> ComposeResult:
        """Make the window."""
        with window("Why do you skip this pair?", "a number or Enter chooses · Esc goes back"):
            yield OptionList(
                *(Option(Content(f"{number} {visible(one)}")) for number, one in enumerate(self.reasons, 1))
            )

    def on_key(self, event: Key) -> None:
        """Choose by a digit."""
        number = int(event.key) if event.key.isdecimal() else 0
        if 1 <= number <= len(self.reasons):
            event.stop()
            self.dismiss(self.reasons[number - 1])

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Choose by Enter or the mouse."""
        self.dismiss(self.reasons[event.option_index])


class NoteDialog(ModalScreen[str | None]):
    """A note on the pair. None: the note stays as it was."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Cancel")]

    def __init__(self, note: str) -> None:
        super().__init__()
        self.note = note

    def compose(self) -> ComposeResult:
        """Make the window."""
        with window("Note on this pair", "Enter keeps it · Esc goes back"):
            yield Input(self.note, max_length=MAX_NOTE, select_on_focus=False)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Keep the note."""
        self.dismiss(event.value.strip())


class QuitDialog(ModalScreen[bool]):
    """The question whether to quit though a vote or an undo is not saved."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "dismiss(True)", "Quit"),
        Binding("n,escape", "dismiss(False)", "Stay"),
    ]

    def compose(self) -> ComposeResult:
        """Make the window."""
        with window("What you did last is not saved yet", "y quits without it · n stays"):
            yield Static(Text("The app ends by itself when it is saved. If you quit now, it is lost."))
