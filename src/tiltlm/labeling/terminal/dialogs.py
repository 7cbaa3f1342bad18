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

from tiltlm.labeling.queue.ballots import MAX_NOTE
from tiltlm.labeling.terminal.texts import visible


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
        with Vertical(classes="dialog wide"):
            yield Static(Text(self.heading), classes="heading")
            with VerticalScroll(can_focus=False):
                yield Static(self.body, id="body")
            yield Static(Text("↑ ↓ PgUp PgDn scroll · Enter or Esc closes"), classes="hint")

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
        with Vertical(classes="dialog"):
            yield Static(Text("Why do you skip this pair?"), classes="heading")
            yield OptionList(
                *(Option(Content(f"{number} {visible(one)}")) for number, one in enumerate(self.reasons, 1))
            )
            yield Static(Text("A number or Enter chooses · Esc goes back"), classes="hint")

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
        with Vertical(classes="dialog"):
            yield Static(Text("Note on this pair"), classes="heading")
            yield Input(self.note, max_length=MAX_NOTE, select_on_focus=False)
            yield Static(Text("Enter keeps it, and it is saved with your vote · Esc goes back"), classes="hint")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Keep the note."""
        self.dismiss(event.value.strip())


class QuitDialog(ModalScreen[bool]):
    """The question whether to quit though a vote is not saved."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "dismiss(True)", "Quit"),
        Binding("n,escape", "dismiss(False)", "Stay"),
    ]

    def compose(self) -> ComposeResult:
        """Make the window."""
        with Vertical(classes="dialog"):
            yield Static(Text("Your last vote is not saved yet"), classes="heading")
            yield Static(Text("Saving is tried again by itself. If you quit now, this vote is lost."))
            yield Static(Text("y quits without it · n or Esc stays"), classes="hint")
