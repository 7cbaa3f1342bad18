"""The app of one person in a terminal.

A vote is shown as given at once, and the next pair with it; the vote is saved beside that. Until it is saved no other
vote is taken, so at most one is ever unsaved, and it is tried again with the same key until the database has it.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import ClassVar, Literal, TypeVar
from uuid import uuid4

from rich.console import RenderableType
from rich.text import Text
from sqlalchemy.exc import DBAPIError
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widgets import Static

import tiltlm
from tiltlm.core.errors import DataError, RunError, TiltError
from tiltlm.core.notes import visible
from tiltlm.labeling.queue.assignments import Refused
from tiltlm.labeling.queue.ballots import Ballot, Choice
from tiltlm.labeling.queue.contents import Contents, raw_text
from tiltlm.labeling.terminal.dialogs import NoteDialog, QuitDialog, SkipDialog, TextDialog
from tiltlm.labeling.terminal.keys import Clock, KeyGuard, Stopwatch
from tiltlm.labeling.terminal.texts import markdown
from tiltlm.labeling.terminal.view import CSS, Prompt, Sides, key_lines, key_table, progress_line, whole_prompt
from tiltlm.labeling.terminal.voter import Feedback, Reply, Voter
from tiltlm.labeling.words import word_diff

Result = TypeVar("Result")

CHOICE_OF_KEY: dict[str, Choice] = {
    "1": "left",
    "left": "left",
    "2": "right",
    "right": "right",
    "0": "tie",
    "b": "both_bad",
}
NAMES: dict[Choice, str] = {
    "left": "left is better",
    "right": "right is better",
    "tie": "tie",
    "both_bad": "both bad",
    "skip": "skipped",
}
RETRY_SECONDS = (1.0, 2.0, 4.0, 8.0)
"""Waits between attempts to save; the last one is repeated."""
WAIT_SECONDS = 20.0
"""Time between two looks for new pairs when there is none."""
BREAK_VOTES = 50
PACE_VOTES = 10
"""Votes before the pace is shown."""
WIDE = 100
"""Columns from which on the responses are side by side."""

NOT_YET = "Not saved yet: wait until it is, and vote then."
FINISHED = "All done: there is no pair left for you.\n\nu takes back your newest vote · q quits"
WAITING = (
    "Nothing for you now: others have the last pairs. If they leave one, it comes to you; this window looks again "
    "by itself.\n\nu takes back your newest vote · q quits"
)


@dataclass(frozen=True)
class Outcome:
    """What was done in one sitting."""

    num_votes: int
    num_undone: int
    """Votes that were taken back, of this sitting or before."""
    num_left: int
    """Pairs left for this person."""


class LabelApp(App[Outcome]):
    """Pairs one after another, and a vote on each."""

    CSS = CSS
    ENABLE_COMMAND_PALETTE = False
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (WIDE, "-wide")]  # noqa: RUF012 - textual declares no class variable
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(key, f"press('{key}')") for key in ("1", "2", "3", "0", "b", "left", "right")),
        Binding("s", "skip"),
        Binding("u", "undo"),
        Binding("escape", "cancel"),
        Binding("n", "note"),
        Binding("r", "raw"),
        Binding("d", "diff"),
        Binding("p", "prompt"),
        Binding("g", "guidelines"),
        Binding("question_mark", "help"),
        Binding("q", "quit"),
        Binding("ctrl+c,ctrl+q", "quit", priority=True),
        Binding("up,k", "scroll(-1)"),
        Binding("down,j", "scroll(1)"),
        Binding("pageup", "scroll_page(-1)"),
        Binding("pagedown,space", "scroll_page(1)"),
        Binding("home", "scroll_page(-1000000)"),
        Binding("end", "scroll_page(1000000)"),
    ]

    def __init__(
        self, voter: Voter, *, clock: Clock = time.monotonic, retry_seconds: Sequence[float] = RETRY_SECONDS
    ) -> None:
        """Make the app.

        Args:
            voter: Who votes.
            clock: Returns the time in seconds.
            retry_seconds: Waits between attempts to save; the last one is repeated.
        """
        super().__init__()
        self.voter = voter
        self.project_settings = voter.project.settings
        self.guard, self.stopwatch = KeyGuard(clock), Stopwatch(clock)
        self.clock, self.retry_seconds = clock, retry_seconds
        self.started = clock()
        self.num_votes = self.num_undone = 0
        self.reply: Reply | None = None
        self.shown: Contents | None = None
        self.half: Literal["left", "right"] | None = None
        """The side that was chosen, while its strength is asked for."""
        self.notes: dict[str, str] = {}
        """Notes that are not saved yet, by ticket."""
        self.is_raw = self.is_diff = False
        self.is_saving = False
        """A vote or an undo is on its way to the database. Nothing else is taken until it is there."""
        self.guideline_version = 0
        """The version that was shown."""
        self.failure: TiltError | None = None
        """Why the app ended by itself."""

    def compose(self) -> ComposeResult:
        """Make the screen."""
        with Horizontal(id="top"):
            yield Static(Text(visible(self.project_settings.title)), id="title")
            yield Static(id="progress")
        yield Prompt("prompt", "Prompt")
        yield Sides(id="sides")
        yield Static(id="finished")
        yield Static(id="message")
        yield Static(key_lines(has_ties=self.project_settings.ties), id="keys")

    def on_mount(self) -> None:
        """Take the first pairs."""
        self.query_one("#finished").display = False
        self.set_interval(WAIT_SECONDS, self._look_again)
        self._begin()

    def on_resize(self) -> None:
        """Say which texts are cut in the new size."""
        self.call_after_refresh(self.query_one(Prompt).say_if_cut)

    def on_app_blur(self) -> None:
        """Stop the time of the pair: the person looks at another window."""
        self.stopwatch.pause()

    def on_app_focus(self) -> None:
        """Go on with the time of the pair."""
        self.stopwatch.resume()

    # What the keys do

    def action_press(self, key: str) -> None:
        """Choose, or say how much better the chosen side is."""
        if self.half is not None:
            self._press_strength(self.half, key)
            return
        choice = CHOICE_OF_KEY.get(key)
        if choice is None or (choice in ("tie", "both_bad") and not self.project_settings.ties):
            return
        if not self._may_vote(key):
            return
        if self.project_settings.strength and choice in ("left", "right"):
            self.half = choice
            self._say(f"{choice.capitalize()} is better: how much? 1 slightly · 2 clearly · 3 much · Esc goes back")
        else:
            self._vote(choice)

    def _press_strength(self, half: Literal["left", "right"], key: str) -> None:
        if key not in ("1", "2", "3") or not self.guard.counts(key, is_second=True):
            return
        self.half = None
        self._vote(half, strength=int(key))

    def action_cancel(self) -> None:
        """Forget a side whose strength was asked for."""
        self.half = None
        self._say_note()

    @work
    async def action_skip(self) -> None:
        """Ask for a reason, and skip."""
        if self.half is None and self._may_vote("s"):
            reason = await self.push_screen_wait(SkipDialog(self.project_settings.skip_reasons))
            if reason is not None:
                self._vote("skip", reason=reason)

    def action_undo(self) -> None:
        """Take back the newest vote."""
        if self.half is not None:
            self.action_cancel()
        elif self.is_saving:
            self._say(NOT_YET, is_loud=True)
        elif self.guard.counts("u", is_vote=False):
            self._undo()

    @work
    async def action_note(self) -> None:
        """Write a note."""
        if self.shown is not None:
            ticket = self.shown.given.ticket
            note = await self.push_screen_wait(NoteDialog(self.notes.get(ticket, "")))
            if note is not None:
                self.notes[ticket] = note
            self._say_note()

    def action_raw(self) -> None:
        """Show texts as they were written, or Markdown again."""
        self.is_raw, self.is_diff = not (self.is_raw or self.is_diff), False
        self._draw()

    @work(exclusive=True, group="diff")
    async def action_diff(self) -> None:
        """Mark the words that differ, or no more."""
        pair = self.shown
        if pair is None:
            return
        if self.is_diff:
            self.is_diff = False
            self._draw()
            return
        try:
            parts = await asyncio.to_thread(word_diff, raw_text(pair.left), raw_text(pair.right))
        except DataError as error:
            self._say(str(error), is_loud=True)
            return
        if pair is self.shown:
            self.is_diff = True
            self.query_one(Sides).show_diff(parts)

    def action_prompt(self) -> None:
        """Show the whole prompt."""
        if self.shown is not None:
            self.push_screen(TextDialog("Prompt", whole_prompt(self.shown, is_raw=self.is_raw)))

    @work
    async def action_guidelines(self) -> None:
        """Show the guidelines."""
        await self._show_guidelines("Guidelines")

    def action_help(self) -> None:
        """Show what the keys do."""
        self.push_screen(TextDialog("Keys", key_table()))

    def action_scroll(self, lines: int) -> None:
        """Scroll both responses by lines."""
        self.query_one(Sides).scroll_lines(lines)

    def action_scroll_page(self, pages: int) -> None:
        """Scroll both responses by pages."""
        sides = self.query_one(Sides)
        sides.scroll_lines(pages * sides.page)

    async def action_quit(self) -> None:
        """End; ask first if a vote is not saved."""
        if not self.is_saving:
            self._end()
        elif not isinstance(self.screen, QuitDialog):
            self.push_screen(QuitDialog(), lambda is_sure: self._end() if is_sure else None)

    # Votes

    def _may_vote(self, key: str) -> bool:
        """Return True if there is a pair to vote on and the key was meant; say so if not."""
        if self.shown is None:
            return False
        if self.is_saving:
            self._say(NOT_YET, is_loud=True)
            return False
        if not self.guard.counts(key):
            self._say("That key came too soon after the last one, and does not count.")
            return False
        return True

    def _vote(self, choice: Choice, *, strength: int | None = None, reason: str = "") -> None:
        pair = self.shown
        assert pair is not None, "there was one when the key was pressed"
        ballot = Ballot(
            pair.given.ticket,
            uuid4().hex,
            choice,
            strength,
            reason,
            visible(self.notes.pop(pair.given.ticket, "")),
            round(1000 * self.stopwatch.seconds),
            time.time(),
            f"terminal {tiltlm.__version__}",
            self.guideline_version or None,
        )
        self.is_saving = True
        following = self.reply.work.items[1:] if self.reply is not None else []
        if following and pair.given.kind != "calibration":
            self._show(following[0])
        else:
            self.shown = None  # it stays on the screen, and takes no second vote
        self._save(ballot)

    @work
    async def _save(self, ballot: Ballot) -> None:
        """Save a vote, however often it takes, and go on."""
        try:
            reply = await self._attempt(partial(self.voter.vote, ballot), "Your vote is not saved yet")
        except Refused as error:
            refused = str(error)
            reply = await self._attempt(self.voter.work)
        else:
            refused = ""
            self.num_votes += 1
        if self._quits_when_saved(reply):
            return
        if reply.feedback is not None:
            await self.push_screen_wait(TextDialog(*_feedback_texts(reply.feedback)))
        await self._accept(reply)
        if refused:
            self._say(refused, is_loud=True)
        elif reply.feedback is not None and not reply.work.progress.calibration_left:
            self._say("Calibration is done. Your votes become labels from now on.")
        elif self.num_votes % BREAK_VOTES == 0:
            self._say(f"{self.num_votes} votes in this sitting. A short break helps to judge well.")
        else:
            self._say(f"Saved: {NAMES[ballot.choice]}. u takes it back.")

    @work
    async def _undo(self) -> None:
        """Take back the newest vote, and show its pair and its note."""
        self.is_saving = True
        try:
            reply = await self._attempt(partial(self.voter.undo, uuid4().hex), "The vote is not taken back yet")
        except Refused as error:
            self.is_saving = False
            self._say(str(error), is_loud=True)
            return
        self.num_undone += 1
        if self._quits_when_saved(reply):
            return
        await self._accept(reply)
        assert reply.undone is not None, "an undo says what it took back"
        note = reply.undone.note
        self.notes[reply.work.items[0].given.ticket] = note
        self._say(f"Taken back: {NAMES[reply.undone.choice]}." + (f" Note: {note}" if note else ""))

    def _quits_when_saved(self, reply: Reply) -> bool:
        """Note that the database has the vote or undo, and return True if the person waited for it to quit."""
        self.is_saving, self.reply = False, reply
        if not isinstance(self.screen, QuitDialog):
            return False
        self.screen.dismiss(True)
        return True

    @work
    async def _begin(self) -> None:
        """Show guidelines that this person has not voted under, then the first pair."""
        seen = await self._attempt(self.voter.seen_guidelines)
        guidelines = await self._attempt(self.voter.guidelines)
        self.guideline_version = guidelines.version
        if seen < guidelines.version:
            heading = "The guidelines have changed" if seen else "Guidelines"
            await self.push_screen_wait(TextDialog(heading, markdown(guidelines.text)))
        await self._accept(await self._attempt(self.voter.work))

    @work(exclusive=True, group="look")
    async def _look_again(self) -> None:
        """Look for pairs that others gave back, if there was none."""
        is_idle = self.reply is not None and self.shown is None and not self.is_saving
        if is_idle and len(self.screen_stack) == 1:
            await self._accept(await self._attempt(self.voter.work))

    async def _attempt(self, call: Callable[[], Result], what: str = "The database cannot be read now") -> Result:
        """Call until the database answers. What no waiting can change ends the app."""
        for number in count():
            try:
                return await asyncio.to_thread(call)
            except Refused:
                raise
            except (RunError, DBAPIError, OSError) as error:
                wait = self.retry_seconds[min(number, len(self.retry_seconds) - 1)]
                self._say(f"{what}: {_reason(error)}. Next attempt in {wait:.0f} s.", is_loud=True)
                await asyncio.sleep(wait)
            except TiltError as error:
                self.failure = error
                self.exit()
                raise asyncio.CancelledError from error  # ends the worker, and nothing else
        raise AssertionError("the loop has no end")

    async def _accept(self, reply: Reply) -> None:
        """Show what to work on, unless it is on the screen already."""
        self.reply = reply
        if reply.guideline_version > self.guideline_version:
            await self._show_guidelines("The guidelines have changed")
        hours = (self.clock() - self.started) / 3600
        pace = self.num_votes / hours if self.num_votes >= PACE_VOTES and hours > 0 else None
        self.query_one("#progress", Static).update(progress_line(reply.work.progress, pace))
        items = reply.work.items
        if not items:
            await self._finish()
        elif self.shown is None or items[0].given.ticket != self.shown.given.ticket:
            self._show(items[0])

    async def _finish(self) -> None:
        """Say that there is nothing to do."""
        is_waiting = await self._attempt(self.voter.is_waiting)
        self.shown = None
        self._set_finished(True)
        self.query_one("#finished", Static).update(Text(WAITING if is_waiting else FINISHED))

    async def _show_guidelines(self, heading: str) -> None:
        guidelines = await self._attempt(self.voter.guidelines)
        self.guideline_version = guidelines.version
        await self.push_screen_wait(TextDialog(heading, markdown(guidelines.text)))

    def _end(self) -> None:
        num_left = 0 if self.reply is None else self.reply.work.progress.left
        self.exit(Outcome(self.num_votes, self.num_undone, num_left))

    # The screen

    def _show(self, pair: Contents) -> None:
        """Show a pair from its start, and let its time begin."""
        self.shown, self.half, self.is_diff = pair, None, False
        self._set_finished(False)
        self._draw()
        self.guard.show()
        self.stopwatch.restart()

    def _draw(self) -> None:
        if self.shown is not None:
            self.query_one(Prompt).show_prompt(self.shown, is_raw=self.is_raw)
            self.query_one(Sides).show(self.shown, is_raw=self.is_raw)
            self.call_after_refresh(self.query_one(Prompt).say_if_cut)

    def _set_finished(self, is_finished: bool) -> None:
        self.query_one("#finished").display = is_finished
        for name in ("#prompt", "#sides"):
            self.query_one(name).display = not is_finished

    def _say_note(self) -> None:
        note = "" if self.shown is None else self.notes.get(self.shown.given.ticket, "")
        self._say(f"Note: {note}" if note else "")

    def _say(self, text: str, *, is_loud: bool = False) -> None:
        line = self.query_one("#message", Static)
        line.set_class(is_loud, "-loud")
        line.update(Text(visible(text).replace("\n", " ")))


def _feedback_texts(feedback: Feedback) -> tuple[str, RenderableType]:
    """Return heading and text of the known answer of a calibration pair."""
    heading = "Right" if feedback.is_right else "Not the known answer"
    answer = f"The known answer of this calibration pair: **{NAMES[feedback.answer]}**."
    return heading, markdown(f"{answer}\n\n{feedback.explanation}")


def _reason(error: Exception) -> str:
    """Return why the database refused, in a line."""
    text = str(error.orig if isinstance(error, DBAPIError) else error)
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
