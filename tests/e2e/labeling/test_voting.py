"""Voting on the labelling page in a real browser, by keys and by buttons, checked against the database."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect
from sqlalchemy import select

from support.browsers import window
from support.label_page import LabelPage, num_events, served, votes_of
from support.labelling import make_project, plain_pairs
from tiltlm.labeling.store.database import reading
from tiltlm.labeling.store.pairs import NewPair
from tiltlm.labeling.store.tables import event


def expected(page: LabelPage, choice: str) -> tuple[str, str]:
    """Return the key of the pair on the screen, and a choice as it is to be stored."""
    other = {"a": "b", "b": "a"}[page.left()]
    return f"secret-key-{page.number()}", {"left": page.left(), "right": other}.get(choice, choice)


@pytest.mark.slow
def test_a_session_of_twenty_by_keyboard(browser: Browser, tmp_path: Path) -> None:
    """All kinds of votes, notes, strengths, undos and changes of mind end in the database as they were meant."""
    project = make_project(tmp_path / "label.db", plain_pairs(20), overlap=1, strength=True)
    plan = [("1", "3"), ("2", "1"), ("0",), ("b",), ("ArrowLeft", "2"), ("ArrowRight", "2"), ("s", "2")]
    choices = {"1": "left", "ArrowLeft": "left", "2": "right", "ArrowRight": "right", "0": "tie", "b": "both_bad"}
    meant = {}
    with served(project) as site, window(browser, site.address) as tab:
        page = site.open(tab)
        for turn in range(20):
            keys = plan[turn % len(plan)]
            page.ready()
            if turn % 6 == 5:  # a wrong vote first, which is taken back
                page.press("0").saved()
                page.press("u")
                expect(page.page.locator("#last")).to_have_text("Taken back: Tie")
                page.ready()
            name, choice = expected(page, choices.get(keys[0], "skip"))
            note = f"note on {name}" if turn % 4 == 3 else ""
            if note:
                page.press("n")
                page.page.keyboard.type(note)
                page.page.keyboard.press("Escape")
            if keys[0] == "s":
                page.press("s")
                expect(page.page.get_by_role("dialog", name="Why skip this pair?")).to_be_visible()
                page.page.keyboard.press(keys[1])
                meant[name] = ("skip", None, "needs an expert", note)
            else:
                page.press(*keys)
                meant[name] = (choice, int(keys[1]) if len(keys) > 1 else None, "", note)
        expect(page.page.get_by_role("heading", name="All done. Thank you!")).to_be_visible()
    rows = votes_of(project)
    assert {row.pair_key: (row.choice, row.strength, row.reason, row.note) for row in rows} == meant
    assert len(meant) == len(rows) == 20
    assert num_events(project, "undo") == 3
    assert all(row.dwell_ms is not None and 0 < row.dwell_ms < 60_000 for row in rows)
    assert all(abs(row.client_time - row.server_time) < 60 and row.guideline_version == 1 for row in rows)


def test_the_buttons_do_the_same(browser: Browser, tmp_path: Path) -> None:
    project = make_project(tmp_path / "label.db", plain_pairs(6), overlap=1, strength=True)
    with served(project) as site, window(browser, site.address, "phone") as tab:
        page = site.open(tab).ready()
        meant = {}
        for choice, buttons in {
            "left": ["Left is better", "Much"],
            "right": ["Right is better", "Slightly"],
            "tie": ["Tie"],
            "both_bad": ["Both bad"],
            "skip": ["Skip", "harmful content"],
        }.items():
            name, stored = expected(page.ready(), choice)
            meant[name] = stored
            if choice != "skip":
                page.page.get_by_role("button", name="Right (not seen yet)").tap()
            for button in buttons:
                page.page.wait_for_selector('#main[data-state$=" ready"]')
                page.page.get_by_role("button", name=button, exact=True).tap()
        page.saved().ready()
        last = page.number()
        page.page.get_by_role("button", name="Undo").tap()
        expect(page.page.locator("#prompt-text")).not_to_have_text(f"Question {last}?")
        assert expected(page.ready(), "skip")[0] == list(meant)[-1]
    del meant[list(meant)[-1]]
    assert {row.pair_key: row.choice for row in votes_of(project)} == meant


def test_strength_is_a_second_press_that_can_be_cancelled(browser: Browser, tmp_path: Path) -> None:
    project = make_project(tmp_path / "label.db", plain_pairs(3), overlap=1, strength=True)
    with served(project) as site, window(browser, site.address) as tab:
        page = site.open(tab).ready()
        first = page.number()
        page.press("2")
        expect(page.page.locator("#strength-text", has_text="Right is better. How much?")).to_be_visible()
        page.press("Escape").ready()
        assert page.number() == first
        page.press("1", "u").ready()  # undo steps back too, and takes no vote back
        assert num_events(project) == num_events(project, "undo") == 0
        name, stored = expected(page, "left")
        page.press("1", "2").saved().ready()
        name_of_tie, _ = expected(page, "tie")
        page.press("0").saved()
    assert [(row.pair_key, row.choice, row.strength) for row in votes_of(project)] == [
        (name, stored, 2),
        (name_of_tie, "tie", None),
    ]


def test_a_held_key_votes_once(browser: Browser, tmp_path: Path) -> None:
    project = make_project(tmp_path / "label.db", plain_pairs(30), overlap=1)
    with served(project) as site, window(browser, site.address) as tab:
        page = site.open(tab).ready()
        for _ in range(12):  # every further `down` is a repeat, as from a key that is held
            page.page.keyboard.down("1")
            page.ready()
        page.page.keyboard.up("1")
        page.saved()
        assert num_events(project) == 1
        page.page.get_by_role("button", name="Tie").focus()
        for _ in range(12):
            page.page.keyboard.down("Enter")
            page.ready()
        page.page.keyboard.up("Enter")
        page.saved()
    assert num_events(project) == 2


def test_a_double_press_counts_once_and_says_so(browser: Browser, tmp_path: Path) -> None:
    project = make_project(tmp_path / "label.db", plain_pairs(6), overlap=1)
    with served(project) as site, window(browser, site.address) as tab:
        page = site.open(tab).ready()
        # Both events in one task: no time at all is between the two.
        page.page.evaluate(
            "() => { for (let i = 0; i < 2; i++) "
            "document.body.dispatchEvent(new KeyboardEvent('keydown', {key: '1', code: 'Digit1', bubbles: true})); }"
        )
        assert page.line().startswith("That was too quick")
        page.saved().ready()
        assert num_events(project) == 1
        page.press("1").saved()
        assert page.line() == ""
    assert num_events(project) == 2


def test_a_double_press_does_not_answer_the_question_of_strength(browser: Browser, tmp_path: Path) -> None:
    project = make_project(tmp_path / "label.db", plain_pairs(2), overlap=1, strength=True)
    with served(project) as site, window(browser, site.address) as tab:
        page = site.open(tab).ready()
        page.page.evaluate(
            "() => { for (let i = 0; i < 2; i++) "
            "document.body.dispatchEvent(new KeyboardEvent('keydown', {key: '1', code: 'Digit1', bubbles: true})); }"
        )
        assert page.line().startswith("That was too quick")
        assert page.page.get_by_text("Left is better. How much?").is_visible()
    assert num_events(project) == 0


def test_keys_are_off_while_writing_and_with_modifiers(browser: Browser, tmp_path: Path) -> None:
    project = make_project(tmp_path / "label.db", plain_pairs(3), overlap=1)
    with served(project) as site, window(browser, site.address) as tab:
        page = site.open(tab).ready()
        page.press("n")
        page.page.keyboard.type("1 2 0 b s u n r d g ? uuu")
        expect(page.page.get_by_label("Note on this pair")).to_have_value("1 2 0 b s u n r d g ? uuu")
        page.page.keyboard.press("ArrowLeft")
        page.page.keyboard.press("Escape")
        for chord in ("Control+1", "Alt+2", "Meta+0", "Control+b", "Alt+ArrowLeft", "Shift+ArrowRight"):
            page.page.evaluate(
                "([modifier, key]) => document.body.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true, "
                "ctrlKey: modifier === 'Control', altKey: modifier === 'Alt', metaKey: modifier === 'Meta', "
                "shiftKey: modifier === 'Shift'}))",
                chord.split("+"),
            )
        page.press("?")
        page.page.get_by_label("Single-key shortcuts are on").uncheck()
        page.page.keyboard.press("1")  # in a dialog
        page.page.keyboard.press("Escape")
        page.press("1", "b")
        assert num_events(project) == 0
        page.page.reload()  # the choice is kept
        page.ready().press("1", "0")
        assert num_events(project) == 0
        page.page.get_by_role("button", name="Tie").click()
        page.saved()
    assert num_events(project) == 1


def test_keyboards_of_other_layouts(browser: Browser, tmp_path: Path) -> None:
    """The same keys vote on a Russian keyboard (и for b) and on a French one (& for 1)."""
    project = make_project(tmp_path / "label.db", plain_pairs(4), overlap=1)
    with served(project) as site, window(browser, site.address) as tab:
        page = site.open(tab)
        for key, code in (("и", "KeyB"), ("&", "Digit1"), ("B", "KeyB")):
            page.ready()
            page.page.evaluate(
                "([key, code]) => "
                "document.body.dispatchEvent(new KeyboardEvent('keydown', { key, code, bubbles: true }))",
                [key, code],
            )
            page.saved()
    rows = votes_of(project)
    assert [row.choice for row in rows][::2] == ["both_bad", "both_bad"]
    assert rows[1].choice == rows[1].left


def test_undo_brings_back_the_pair_and_its_note(browser: Browser, tmp_path: Path) -> None:
    project = make_project(tmp_path / "label.db", plain_pairs(2), overlap=1)
    with served(project) as site, window(browser, site.address) as tab:
        tab.expected.append("409")
        page = site.open(tab).ready()
        page.press("u")
        expect(page.page.locator("#line-text")).to_have_text("There is no vote to take back.")
        first = page.ready().number()
        page.press("n")
        page.page.keyboard.type("first thoughts")
        page.page.keyboard.press("Escape")
        page.press("1").saved().ready()
        page.press("0").saved()
        expect(page.page.get_by_role("heading", name="All done. Thank you!")).to_be_visible()
        page.page.keyboard.press("u")  # from the page of the end
        expect(page.page.locator("#last")).to_have_text("Taken back: Tie")
        page.press("u")
        expect(page.page.locator("#last")).to_have_text("Taken back: Left is better")
        assert page.ready().number() == first
        expect(page.page.get_by_role("button", name="Left is better")).to_have_class("button vote was")
        page.press("n")
        expect(page.page.get_by_label("Note on this pair")).to_have_value("first thoughts")
    assert votes_of(project) == []


def test_a_project_without_ties(browser: Browser, tmp_path: Path) -> None:
    project = make_project(tmp_path / "label.db", plain_pairs(2), overlap=1, ties=False)
    with served(project) as site, window(browser, site.address) as tab:
        page = site.open(tab).ready()
        expect(page.page.get_by_role("button", name="Tie")).to_be_hidden()
        page.press("0")
        assert page.line().startswith("This project asks for a decision")
        page.press("b", "?")
        assert page.page.get_by_role("dialog").get_by_text("Both bad").is_hidden()
    assert num_events(project) == 0


def test_practice_shows_the_known_answers(browser: Browser, tmp_path: Path) -> None:
    lessons = [
        NewPair(
            prompt=f"Lesson {n}?",
            a="right answer",
            b="wrong answer",
            kind="calibration",
            answer="a",
            explanation=f"Because of **reason {n}**.",
            key=f"lesson-{n}",
        )
        for n in range(2)
    ]
    project = make_project(tmp_path / "label.db", [*lessons, *plain_pairs(2)], overlap=1, calibration=2)
    with served(project) as site, window(browser, site.address) as tab:
        page = site.open(tab).ready()
        expect(page.page.get_by_text("Practice: after each vote you see the known answer. 2 to go.")).to_be_visible()
        is_left = page.side("left") == "right answer"
        page.press("1" if is_left else "2")
        heading = page.page.get_by_role(
            "heading", name="Correct: left is better." if is_left else "Correct: right is better."
        )
        expect(heading).to_be_visible()
        expect(page.page.get_by_text("Because of reason")).to_be_visible()
        page.page.keyboard.press("1")  # no vote: the answer is on the screen
        page.page.keyboard.press("Enter")
        page.ready()
        expect(page.page.get_by_text("This is the last one.")).to_be_visible()
        page.page.get_by_role("button", name="Tie").focus()
        page.page.keyboard.down("Enter")
        expect(page.page.get_by_role("heading", name="Your vote: tie.")).to_be_visible()
        expect(page.page.get_by_role("button", name="Continue")).to_be_focused()
        for _ in range(3):  # the key is still held: it does not hide what is to be read
            page.page.keyboard.down("Enter")
        page.page.keyboard.up("Enter")
        expect(page.page.get_by_role("heading", name="Your vote: tie.")).to_be_visible()
        page.page.get_by_role("button", name="Continue").click()
        page.ready()
        assert page.line().startswith("Practice is over.")
        assert page.prompt().startswith("Question")
        page.press("1").saved().ready()
        expect(page.page.locator("#feedback-row")).to_be_hidden()
    with reading(project.engine) as connection:
        assert len(connection.execute(select(event.c.id)).all()) == 3


def test_two_people_race_for_the_last_seat(browser: Browser, tmp_path: Path) -> None:
    """The pair of one who waited too long is given to another; the late vote is refused with a friendly line."""
    project = make_project(tmp_path / "label.db", plain_pairs(1), overlap=1, lease_minutes=1e-9)
    with served(project) as site, window(browser, site.address) as tab, window(browser, site.address) as other:
        late = site.open(tab, "Late").ready()
        quick = site.open(other, "Quick").ready()
        assert late.number() == quick.number()
        tab.expected.append("409")
        quick.press("1")
        expect(quick.page.get_by_role("heading", name="All done. Thank you!")).to_be_visible()
        late.press("2")
        expect(late.page.get_by_role("heading", name="All done. Thank you!")).to_be_visible()
        expect(late.page.locator("#line-text", has_text="Somebody else has judged that pair meanwhile")).to_be_visible()
    assert [row.name for row in votes_of(project)] == ["Quick"]


def test_a_phone_takes_no_vote_before_both_responses_were_seen(browser: Browser, tmp_path: Path) -> None:
    project = make_project(tmp_path / "label.db", plain_pairs(2), overlap=1)
    with served(project) as site, window(browser, site.address, "phone") as tab:
        page = site.open(tab).ready()
        vote = page.page.get_by_role("button", name="Left is better")
        vote.tap()
        assert page.line().startswith("This is the right response.")
        expect(page.page.get_by_role("region", name="Right", exact=True)).to_be_visible()
        assert num_events(project) == 0
        page.ready()
        vote.tap()
        page.saved().ready()
        page.page.get_by_role("button", name="Undo").tap()
        expect(page.page.get_by_role("button", name="Left is better")).to_have_class("button vote was")
        page.ready()
        vote.tap()  # both were seen before the undo
        page.saved()
    assert len(votes_of(project)) == 1
