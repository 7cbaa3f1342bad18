"""The app in a terminal, key by key, against the database."""

import itertools
import threading
from dataclasses import replace

import pytest
from sqlalchemy import delete, select
from sqlalchemy.exc import OperationalError

from support.label_databases import new_project
from support.terminal_app import dialog_text, labelling, press, run, saved, sees, text_of, until
from support.terminal_texts import ESCAPES, MARKUP, UNSEEN
from tiltlm.core.notes import visible
from tiltlm.labeling.project import ProjectSettings
from tiltlm.labeling.queue.assignments import take
from tiltlm.labeling.queue.ballots import stored_choice
from tiltlm.labeling.store.database import DiskFull, reading, writing
from tiltlm.labeling.store.pairs import NewPair, add_pairs
from tiltlm.labeling.store.people import revoke
from tiltlm.labeling.store.projects import add_guidelines, create_project
from tiltlm.labeling.store.tables import assignment, event
from tiltlm.labeling.terminal import app as app_module
from tiltlm.labeling.terminal.app import Outcome
from tiltlm.labeling.terminal.dialogs import NoteDialog, QuitDialog, SkipDialog
from tiltlm.labeling.terminal.view import Pane, Prompt


@pytest.fixture
def file(tmp_path):
    """A database in a file. `test_voter` has PostgreSQL too."""
    return str(tmp_path / "label.db")


def with_pairs(file, *pairs, **settings):
    project = create_project(file, ProjectSettings(**settings))
    with writing(project.engine) as connection:
        add_pairs(connection, project.settings, pairs)
    return project


def test_a_session_of_20_by_keys_alone(file):
    project, _ = new_project(file, 17, overlap=1, gold_share=0, repeat_share=0)
    keys = [
        "1",
        "2",
        "left",
        "right",
        "0",
        "b",
        "s",
        "1",
        "2",
        "u",
        "b",
        "left",
        "n",
        "1",
        "0",
        "2",
        "right",
        "1",
        "2",
        "0",
    ]
    choices = {"1": "left", "left": "left", "2": "right", "right": "right", "0": "tie", "b": "both_bad"}
    wanted = []

    async def session():
        async with labelling(project) as (app, pilot):
            for key in keys:
                shown = app.shown
                name = f"task {shown.pair.prompt.removeprefix('prompt ')}"
                if key == "s":
                    await press(app, pilot, "s", "3")
                    wanted.append((name, "vote", "skip", None, "broken or empty text", ""))
                elif key == "u":
                    await press(app, pilot, "u")
                    wanted.append((wanted[-1][0], "undo", None, None, "", ""))
                elif key == "n":
                    await press(app, pilot, "n", "h", "1", "space", "u", "enter")
                    assert "Note: h1 u" in text_of(app, "#message")
                    note = "h1 u"
                else:
                    await press(app, pilot, key)
                    note = "h1 u" if wanted and key == "1" and len(wanted) == 12 else ""
                    wanted.append((name, "vote", stored_choice(choices[key], shown.given.left), None, "", note))
            await until(lambda: app.shown is None, pilot)
            assert "All done" in text_of(app, "#finished")
            await press(app, pilot, "q")
        assert app.return_value == Outcome(num_votes=18, num_undone=1, num_left=0)

    run(session)
    assert saved(project, "choice", "strength", "reason", "note") == wanted
    with reading(project.engine) as connection:
        rows = connection.execute(select(event).where(event.c.kind == "vote")).all()
    assert len({row.key for row in rows}) == len(rows) == 18
    assert all(row.dwell_ms > 0 and row.guideline_version == 1 for row in rows)
    assert all(row.ui_version.startswith("terminal ") for row in rows)
    assert all(abs(row.client_time - row.server_time) < 60 for row in rows)


def test_strength_is_a_second_key(file):
    project, _ = new_project(file, 5, overlap=1, strength=True)

    async def session():
        async with labelling(project) as (app, pilot):
            await press(app, pilot, "1", "b", "0", "left", "s")  # none of these is a strength
            assert app.half == "left"
            assert saved(project) == []
            await press(app, pilot, "3")
            await press(app, pilot, "right", "escape", "3")
            assert app.half is None
            await press(app, pilot, "2", "u", "2", "2", "0")

    run(session)
    votes = saved(project, "choice", "strength", "left")
    assert [row[3] for row in votes] == [3, 2, None]
    assert votes[0][2] == votes[0][4]
    assert votes[1][2] not in (votes[1][4], "tie")
    assert votes[2][2] == "tie"


def test_a_project_without_ties_has_none(file):
    project, _ = new_project(file, 2, ties=False)

    async def session():
        async with labelling(project) as (app, pilot):
            assert "tie" not in text_of(app, "#keys")
            await press(app, pilot, "0", "b")
            assert app.shown is not None

    run(session)
    assert saved(project) == []


def test_a_skip_and_a_note_can_be_given_up(file):
    project, _ = new_project(file, 2)

    async def session():
        async with labelling(project) as (app, pilot):
            await press(app, pilot, "s")
            assert isinstance(app.screen, SkipDialog)
            await press(app, pilot, "9", "0", "x", "escape")
            await press(app, pilot, "n")
            assert isinstance(app.screen, NoteDialog)
            await press(app, pilot, "a", "escape")
            assert app.notes == {}
            await press(app, pilot, "s", "down", "enter")

    run(session)
    assert [row[2:] for row in saved(project, "choice", "reason")] == [("skip", "needs an expert")]


def test_a_note_comes_back_with_undo(file):
    project, _ = new_project(file, 3)

    async def session():
        async with labelling(project) as (app, pilot):
            first = app.shown.pair
            await press(app, pilot, "n", "h", "i", "enter", "2", "u")
            assert app.shown.pair == first
            assert "right is better" in text_of(app, "#message")
            assert "hi" in text_of(app, "#message")
            await press(app, pilot, "1", "u", "u")
            assert "no vote to undo" in text_of(app, "#message")

    run(session)
    assert [row[2] for row in saved(project, "note")] == ["hi", "", "hi", ""]


def test_calibration_says_what_is_right(file):
    project, _ = new_project(file, 2, calibration=2)

    async def session():
        async with labelling(project) as (app, pilot):
            assert "calibration: 2 left" in text_of(app, "#progress")
            right = "1" if app.shown.given.left == "a" else "2"
            await pilot.press(right)
            await sees(app, pilot, "Right", "known answer")
            await press(app, pilot, "1", "2", "enter")  # a key that is held closes nothing
            await until(lambda: app.shown is not None, pilot)
            left = app.shown.given.left
            await pilot.press("1" if left == "b" else "2")
            await sees(app, pilot, "Not the known answer", f"{'left' if left == 'a' else 'right'} is better")
            await press(app, pilot, "enter")
            await until(lambda: app.shown is not None, pilot)
            assert "Calibration is done" in text_of(app, "#message")
            assert app.shown.given.kind == "task"

    run(session)
    assert len(saved(project)) == 2


def test_guidelines_are_shown_first_and_when_they_change(file):
    project, _ = new_project(file, 4)

    async def session():
        async with labelling(project, reads=False) as (app, pilot):
            await sees(app, pilot, "Choose the response")
            await press(app, pilot, "1", "enter")
            await until(lambda: app.shown is not None, pilot)
            await press(app, pilot, "1")
            with writing(project.engine) as connection:
                add_guidelines(connection, "New *rules*.")
            await pilot.press("2")
            await sees(app, pilot, "have changed", "New rules.")
            await press(app, pilot, "enter", "0", "g")
            await sees(app, pilot, "New rules.")
        async with labelling(project, reads=False) as (app, pilot):
            await until(lambda: app.shown is not None, pilot)
            assert len(app.screen_stack) == 1

    run(session)
    assert [row[2] for row in saved(project, "guideline_version")] == [1, 1, 2]


LONG = "\n\n".join(f"line {k}" for k in range(60))
CONVERSATION = [
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "hello yourself"},
    {"role": "user", "content": "what is *new*?"},
]


def test_80_columns_and_24_lines_show_everything(file):
    project = with_pairs(file, NewPair(LONG, LONG, LONG + "\n\nend", system="be kind"))

    async def session():
        async with labelling(project, size=(80, 24)) as (app, pilot):
            left, right = app.query_one("#left", Pane), app.query_one("#right", Pane)
            assert left.region.bottom <= right.region.y
            assert left.size.height >= 5
            assert right.size.height >= 5
            assert app.query_one(Prompt).size.height >= 3
            assert "(system prompt: p)" in text_of(app, "#prompt")
            assert "p shows all" in str(app.query_one(Prompt).border_subtitle)
            for name in ("#top", "#progress", "#prompt", "#left", "#right", "#message", "#keys"):
                region = app.query_one(name).region
                assert region.area
                assert region.right <= 80
                assert region.bottom <= 24
            assert text_of(app, "#keys").splitlines()[1].endswith("quit")
            await pilot.resize_terminal(140, 40)
            await pilot.pause()
            assert left.region.y == right.region.y
            assert left.region.right <= right.region.x
            await pilot.resize_terminal(99, 20)
            await pilot.pause()
            assert left.region.bottom <= right.region.y
            assert app.query_one("#keys").region.bottom == 20

    run(session)


def test_both_responses_scroll_together(file):
    project = with_pairs(file, NewPair("q", LONG, "\n\n".join(f"line {k}" for k in range(30))))

    async def session():
        async with labelling(project, size=(120, 24)) as (app, pilot):
            panes = app.query_one("#left", Pane), app.query_one("#right", Pane)
            long = max(panes, key=lambda pane: pane.max_scroll_y)
            short = min(panes, key=lambda pane: pane.max_scroll_y)

            async def at(*keys):
                await press(app, pilot, *keys)
                return long.scroll_y, short.scroll_y

            assert await at("down", "j") == (2, 2)
            assert await at("up", "k") == (0, 0)
            page = app.query_one("#left").size.height - 2
            assert await at("pagedown", "space") == (2 * page, 2 * page)
            assert await at("end") == (long.max_scroll_y, short.max_scroll_y)
            assert await at("up") == (long.max_scroll_y - 1, short.max_scroll_y)
            assert await at("home") == (0, 0)
            short.scroll_to(y=7, animate=False, immediate=True)  # as the wheel of a mouse does
            await pilot.pause()
            assert await at() == (7, 7)
            await press(app, pilot, "r")
            assert await at() == (0, 0)

    run(session)


def test_raw_text_and_word_diff(file):
    project = with_pairs(file, NewPair("*q*", "it is *good*", "it is *bad*"), repeat_share=0)

    async def session():
        async with labelling(project) as (app, pilot):
            good = "#left" if app.shown.given.left == "a" else "#right"
            assert text_of(app, good).strip() == "it is good"
            await press(app, pilot, "r")
            assert text_of(app, good).strip() == "it is *good*"
            assert text_of(app, "#prompt").strip() == "*q*"
            await press(app, pilot, "r", "d")
            await until(lambda: app.is_diff, pilot)
            await pilot.pause()
            assert text_of(app, good).strip() == "it is *good*"
            line = app.query_one(f"{good} .text").render_line(0)
            assert [part.text for part in line if part.style.underline] == ["good"]
            await press(app, pilot, "d")
            assert text_of(app, good).strip() == "it is good"
            await press(app, pilot, "d")
            await until(lambda: app.is_diff, pilot)
            await press(app, pilot, "r")
            assert text_of(app, good).strip() == "it is good"

    run(session)


def test_texts_that_are_too_long_for_a_diff(file, monkeypatch):
    monkeypatch.setattr("tiltlm.labeling.words.MAX_STEPS", 1)
    project = with_pairs(file, NewPair("q", "a b c\nd", "b c d\ne"))

    async def session():
        async with labelling(project) as (app, pilot):
            await press(app, pilot, "d")
            await until(lambda: "too long" in text_of(app, "#message"), pilot)
            assert not app.is_diff

    run(session)


def test_long_texts_are_shown_as_they_are_on_both_sides(file):
    project = with_pairs(file, NewPair("q", "*a* " * 15_000, "*b*"))

    async def session():
        async with labelling(project) as (app, _):
            short = "#left" if app.shown.given.left == "b" else "#right"
            assert text_of(app, short).strip() == "*b*"
            assert "too long for Markdown" in str(app.query_one(short, Pane).border_title)

    run(session)


def test_early_turns_are_folded(file):
    project = with_pairs(file, NewPair(CONVERSATION, "a", [{"role": "tool", "content": "4"}], system="be kind"))

    async def session():
        async with labelling(project) as (app, pilot):
            assert text_of(app, "#prompt").split("\n") == ["(system prompt and 2 earlier turns: p)", "what is new?"]
            assert "tool:\n4" in text_of(app, "#left") + text_of(app, "#right")
            await press(app, pilot, "p")
            turns = ("system:\nbe kind", "user:\nhello", "assistant:\nhello yourself", "user:\nwhat is new?")
            await sees(app, pilot, *turns)
            await press(app, pilot, "escape", "question_mark")
            await sees(app, pilot, "take back your newest vote")

    run(session)


def test_no_text_is_obeyed_or_read_as_markup(file):
    texts = list({**ESCAPES, **UNSEEN, **MARKUP}.values())
    three = list(zip(texts, texts[1:] + texts[:1], texts[2:] + texts[:2], strict=True))[::3]
    pairs = [NewPair(prompt, a, b, system=prompt, key=str(k)) for k, (prompt, a, b) in enumerate(three)]
    settings = {"title": "[bold]T[/bold] \x1b[31m", "skip_reasons": ("[red]why[/red] \x1b[2J",)}
    project = with_pairs(file, *pairs, overlap=1, repeat_share=0, **settings)
    with writing(project.engine) as connection:
        add_guidelines(connection, "[bold]rules \x1b[2J\u202e")
    unseen = {*map(chr, [*range(32), *range(0x7F, 0xA0)]), *"".join(UNSEEN.values())}
    unseen -= {"\n", *map(chr, range(32, 127))}

    def check(app):
        names = ("#title", "#prompt", "#left", "#right", "#message", "#keys")
        is_pair = len(app.screen_stack) == 1
        text = "".join(text_of(app, name) for name in names) if is_pair else dialog_text(app)
        assert not set(text) & unseen
        return text

    async def session():
        async with labelling(project, size=(110, 30), reads=False) as (app, pilot):
            await sees(app, pilot, "[bold]rules ␛[2J⟨U+202E⟩")
            check(app)
            await press(app, pilot, "enter")
            await until(lambda: app.shown is not None, pilot)
            assert "[bold]T[/bold] ␛[31m" in text_of(app, "#title")
            for _ in three:
                check(app)
                await press(app, pilot, "r")
                raw = check(app)
                for text in (app.shown.pair.prompt, app.shown.pair.a, app.shown.pair.b):
                    assert visible(text).splitlines()[0] in raw
                await press(app, pilot, "d")
                await until(lambda: app.is_diff, pilot)
                check(app)
                await press(app, pilot, "p")
                await sees(app, pilot, "system:")
                check(app)
                await press(app, pilot, "escape", "s")
                await sees(app, pilot, "[red]why[/red] ␛[2J")
                check(app)
                await press(app, pilot, "1", "r")
                check(app)

    run(session)
    assert len(saved(project)) == len(three)


class Faults:
    """A vote that fails until `is_healthy`: before it is kept, or after."""

    def __init__(self, vote, error, *, after):
        self.vote, self.error, self.after, self.keys, self.is_healthy = vote, error, after, [], False

    def __call__(self, ballot):
        self.keys.append(ballot.key)
        if self.is_healthy:
            return self.vote(ballot)
        if self.after:
            self.vote(ballot)
        raise self.error


LOCKED = OperationalError("UPDATE", {}, Exception("database is locked"))


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("error", [DiskFull("the disk is full", code="disk_full"), LOCKED, OSError("gone")])
def test_a_vote_is_tried_again_until_it_is_kept_once(file, error, after):
    project, _ = new_project(file, 4)

    async def session():
        async with labelling(project, retry_seconds=(0.05,)) as (app, pilot):
            app.voter.vote = faults = Faults(app.voter.vote, error, after=after)
            await pilot.press("1")
            await until(lambda: len(faults.keys) > 2, pilot)
            assert "not saved yet" in text_of(app, "#message")
            await pilot.press("2")  # does not count while a vote is not saved
            faults.is_healthy = True
            await until(lambda: not app.is_saving, pilot)
            await pilot.pause(0)
            assert "Saved: left is better" in text_of(app, "#message")
            assert len(set(faults.keys)) == 1
            await press(app, pilot, "2")

    run(session)
    assert [row[1] for row in saved(project)] == ["vote", "vote"]


@pytest.mark.parametrize("answer", ["wait", "n", "y"])
@pytest.mark.parametrize("key", ["1", "u"])
def test_quitting_before_a_vote_or_undo_is_saved_asks(file, key, answer):
    project, _ = new_project(file, 4, repeat_share=0, gold_share=0)
    gate = threading.Event()

    async def session():
        async with labelling(project) as (app, pilot):
            if key == "u":
                await press(app, pilot, "2")
            vote, undo = app.voter.vote, app.voter.undo
            app.voter.vote = lambda ballot: gate.wait(20) and vote(ballot)
            app.voter.undo = lambda name: gate.wait(20) and undo(name)
            await pilot.press(key, "q")
            await until(lambda: isinstance(app.screen, QuitDialog), pilot)
            if answer != "wait":
                await pilot.press(answer)
                await until(lambda: not isinstance(app.screen, QuitDialog), pilot)
            gate.set()
            if answer == "n":
                await until(lambda: not app.is_saving, pilot)
                await press(app, pilot, "q")
            await until(lambda: app.return_value is not None, pilot)
        is_saved = answer != "y"
        wanted = Outcome(1, int(is_saved), 3 + is_saved) if key == "u" else Outcome(int(is_saved), 0, 4 - is_saved)
        assert app.return_value == wanted

    run(session)


def test_a_pair_that_others_have_meanwhile_is_passed_over(file):
    project, (_, bob, _) = new_project(file, 3, names=("ann", "bob", "cho"), overlap=1)

    async def session():
        async with labelling(project) as (app, pilot):
            first = app.shown.given
            later = replace(project, clock=lambda: project.clock() + 3600)
            with writing(project.engine) as connection:
                given = take(connection, later, bob, limit=3)
            assert first.pair_id in [one.pair_id for one in given]
            await press(app, pilot, "1")
            await until(lambda: app.shown is None, pilot)
            assert "does not count" in text_of(app, "#message")
            assert "others have the last pairs" in text_of(app, "#finished").replace("\n", " ")
            with writing(project.engine) as connection:
                connection.execute(delete(assignment))
                connection.exec_driver_sql("UPDATE pair SET assigned = 0")
            app._look_again()
            await until(lambda: app.shown is not None, pilot)

    run(session)
    assert saved(project) == []


def test_a_person_who_is_revoked_cannot_vote(file):
    project, _ = new_project(file, 3)

    async def session():
        async with labelling(project) as (app, pilot):
            with writing(project.engine) as connection:
                revoke(connection, "ann")
            await pilot.press("1")
            await until(lambda: app.failure is not None, pilot)
        assert app.failure.code == "revoked"

    run(session)
    assert saved(project) == []


def test_a_key_that_is_held_votes_once(file):
    project, _ = new_project(file, 5)
    now = 100.0

    async def session():
        nonlocal now
        async with labelling(project, clock=lambda: now) as (app, pilot):
            await press(app, pilot, "1")
            assert "too soon" in text_of(app, "#message")
            now += 1
            for delay in (0, 0.5, *[0.03] * 30):
                now += delay
                await press(app, pilot, "1")
            assert len(saved(project)) == 1
            for delay in (0.3, *[0.03] * 30):
                now += delay
                await press(app, pilot, "u")
            assert [row[1] for row in saved(project)] == ["vote", "undo"]

    run(session)


def test_the_break_and_the_pace(file, monkeypatch):
    monkeypatch.setattr(app_module, "BREAK_VOTES", 12)
    project, _ = new_project(file, 13, overlap=1, gold_share=0, repeat_share=0)

    async def session():
        async with labelling(project, clock=itertools.count(step=10).__next__) as (app, pilot):
            await press(app, pilot, *"121212121")
            assert "an hour" not in text_of(app, "#progress")
            await press(app, pilot, *"212")
            assert "12 votes" in text_of(app, "#message")
            assert "12 done · 1 left" in text_of(app, "#progress")
            assert "an hour" in text_of(app, "#progress")

    run(session)
    assert len(saved(project)) == 12
