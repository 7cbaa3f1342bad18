"""Votes and notes survive what happens to browsers, networks and servers."""

from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from support.browsers import OTHER_HOST, window
from support.label_page import Faults, num_events, served, votes_of
from support.labelling import invite, make_project, plain_pairs
from tiltlm.labeling.store.database import writing
from tiltlm.labeling.store.people import revoke
from tiltlm.labeling.store.projects import add_guidelines


def test_a_reload_keeps_the_pair_and_the_note(browser: Browser, tmp_path: Path) -> None:
    project = make_project(tmp_path / "label.db", plain_pairs(6), overlap=1)
    with served(project) as site, window(browser, site.address) as tab:
        page = site.open(tab).ready()
        page.press("1").saved().ready()
        number, left = page.number(), page.side("left")
        page.press("n")
        page.page.keyboard.type("half a thou")
        page.page.reload()
        page.ready()
        assert (page.number(), page.side("left")) == (number, left)
        expect(page.page.get_by_role("button", name="Note (written)")).to_be_visible()
        page.press("n")
        page.page.keyboard.type("ght")
        page.page.keyboard.press("Escape")
        page.press("2").saved().ready()
        expect(page.page.locator("#note")).to_have_value("")
        expect(page.page.get_by_role("button", name="Note (written)")).to_be_hidden()
        assert page.page.evaluate("() => Object.keys(sessionStorage).filter((key) => key.includes('note'))") == []
    assert [row.note for row in votes_of(project)] == ["", "half a thought"]


def test_without_connection_votes_wait_and_arrive_once(browser: Browser, tmp_path: Path) -> None:
    project = make_project(tmp_path / "label.db", plain_pairs(6), overlap=1)
    with served(project) as site, window(browser, site.address) as tab:
        tab.expected.append("ERR_INTERNET_DISCONNECTED")
        page = site.open(tab).ready()
        tab.context.set_offline(True)
        page.press("1")
        banner = page.page.locator("#banner")
        expect(banner).to_have_text("Not saved yet: 1 vote. No connection. Trying again …")
        page.ready().press("0")  # the next pair was there already
        expect(banner).to_have_text("Not saved yet: 2 votes. No connection. Trying again …")
        expect(page.page.get_by_text("The next pair comes when your last vote is saved.")).to_be_visible()
        assert num_events(project) == 0
        tab.context.set_offline(False)
        page.saved().ready()
        expect(banner).to_be_hidden()
        page.press("2").saved()
    rows = votes_of(project)
    assert [row.choice == "tie" for row in rows] == [False, True, False]
    assert num_events(project) == 3


def test_a_lost_answer_makes_no_second_vote(browser: Browser, tmp_path: Path) -> None:
    """The server has counted the vote, and the answer is lost: the same request again gets the same answer."""
    project = make_project(tmp_path / "label.db", plain_pairs(4), overlap=1)
    faults: list[Faults] = []
    with (
        served(project, lambda app: faults.append(Faults(app)) or faults[0]) as site,
        window(browser, site.address) as tab,
    ):
        tab.expected.append("502")
        page = site.open(tab).ready()
        faults[0].lost.add("/api/votes")
        page.press("1")
        expect(page.page.locator("#banner")).to_contain_text("Not saved yet: 1 vote.")
        assert num_events(project) == 1
        faults[0].lost.clear()
        page.saved().ready()
        faults[0].lost.add("/api/undo")
        page.press("u")
        expect(page.page.locator("#banner")).to_have_text(
            "Not done yet: the undo. The server has a problem. Trying again …"
        )
        faults[0].lost.clear()
        expect(page.page.locator("#last")).to_have_text("Taken back: Left is better")
        page.press("0").saved()
    assert (num_events(project), num_events(project, "undo")) == (2, 1)
    assert [row.choice for row in votes_of(project)] == ["tie"]


def test_a_reload_loses_no_vote_that_waits(browser: Browser, tmp_path: Path) -> None:
    project = make_project(tmp_path / "label.db", plain_pairs(4), overlap=1)
    faults: list[Faults] = []
    with (
        served(project, lambda app: faults.append(Faults(app)) or faults[0]) as site,
        window(browser, site.address) as tab,
    ):
        tab.expected += ["503", "dialog: beforeunload"]
        page = site.open(tab).ready()
        faults[0].answer["/api/votes"] = 503
        first = page.number()
        page.press("1")
        expect(page.page.locator("#banner")).to_contain_text("Not saved yet: 1 vote. The server has a problem.")
        page.page.reload()
        assert any("beforeunload" in problem for problem in tab.problems)  # leaving warns
        page.ready()
        assert page.number() != first  # its vote is on its way
        faults[0].answer.clear()
        page.saved()
        page.press("2").saved()
    assert len(votes_of(project)) == num_events(project) == 2


@pytest.mark.parametrize(
    ("status", "words"), [(507, "The disk of the server is full"), (500, "The server has a problem"), (429, "problem")]
)
def test_refusals_that_pass_are_tried_again(browser: Browser, tmp_path: Path, status: int, words: str) -> None:
    project = make_project(tmp_path / "label.db", plain_pairs(2), overlap=1)
    faults: list[Faults] = []
    with (
        served(project, lambda app: faults.append(Faults(app)) or faults[0]) as site,
        window(browser, site.address) as tab,
    ):
        tab.expected.append(str(status))
        page = site.open(tab).ready()
        faults[0].answer["/api/votes"] = status
        page.press("0")
        expect(page.page.locator("#banner")).to_contain_text(words)
        faults[0].answer.clear()
        page.saved()
        expect(page.page.locator("#banner")).to_be_hidden()
    assert num_events(project) == 1


def test_a_link_that_ends_keeps_the_vote_for_the_next_link(browser: Browser, tmp_path: Path) -> None:
    project = make_project(tmp_path / "label.db", plain_pairs(3), overlap=1)
    with served(project) as site, window(browser, site.address) as tab:
        tab.expected.append("401")
        page = site.open(tab).ready()
        with writing(project.engine) as connection:
            revoke(connection, "Ada")
        page.press("1")
        expect(page.page.get_by_role("heading", name="Your link has ended")).to_be_focused()
        expect(page.page.get_by_text("One vote is not saved yet.")).to_be_visible()
        assert num_events(project) == 0
        page.page.goto(f"{site.address}/join#{invite(project, 'Ada')}")
        page.ready().saved()
    assert num_events(project) == 1


def test_two_tabs_of_one_person(browser: Browser, tmp_path: Path) -> None:
    project = make_project(tmp_path / "label.db", plain_pairs(4), overlap=1)
    with served(project) as site, window(browser, site.address) as tab:
        tab.expected.append("409")
        page = site.open(tab).ready()
        second = tab.new_page()
        second.goto(site.address)
        second.wait_for_selector('#main[data-state="pair ready"]')
        page.press("1").saved()
        second.keyboard.press("2")
        expect(second.locator("#line-text")).to_contain_text("That pair has a vote of yours already")
        second.wait_for_selector('#main[data-state="pair ready"]')
        second.keyboard.press("2")
        second.wait_for_selector('#main[data-unsaved="0"]', state="attached")
    rows = votes_of(project)
    assert len(rows) == num_events(project) == 2
    assert len({row.pair_key for row in rows}) == 2


def test_new_guidelines_are_shown_once(browser: Browser, tmp_path: Path) -> None:
    project = make_project(tmp_path / "label.db", plain_pairs(4), overlap=1)
    with served(project) as site, window(browser, site.address) as tab:
        page = site.open(tab, is_first_visit=True)
        dialog = page.page.get_by_role("dialog", name="Guidelines")
        expect(dialog).to_contain_text("version 1")
        expect(dialog).not_to_contain_text("have changed")
        page.page.keyboard.press("Escape")
        page.page.reload()
        page.ready()
        expect(dialog).to_be_hidden()
        with writing(project.engine) as connection:
            add_guidelines(connection, "Choose the **shorter** one.")
        page.page.reload()
        expect(dialog).to_contain_text("version 2")
        expect(dialog).to_contain_text("The guidelines have changed. Please read them again.")
        expect(dialog).to_contain_text("shorter")
        page.page.keyboard.press("Escape")
        page.press("1").saved()
    assert [row.guideline_version for row in votes_of(project)] == [2]


def test_signing_out(browser: Browser, tmp_path: Path) -> None:
    project = make_project(tmp_path / "label.db", plain_pairs(2), overlap=1)
    with served(project) as site, window(browser, site.address) as tab:
        tab.expected.append("401")
        page = site.open(tab).ready()
        page.press("?")
        page.page.get_by_role("button", name="Sign out").click()
        expect(page.page.get_by_role("heading", name="You are signed out")).to_be_visible()
        assert tab.context.cookies() == []
        page.page.goto(site.address)
        expect(page.page.get_by_role("heading", name="Your link has ended")).to_be_visible()


def test_pairs_that_come_later_are_found(browser: Browser, tmp_path: Path) -> None:
    """A pair that another person had and left is offered on the page of the end."""
    project = make_project(tmp_path / "label.db", plain_pairs(1), overlap=1, lease_minutes=60.0)
    with served(project) as site, window(browser, site.address) as tab, window(browser, site.address) as other:
        holder = site.open(tab, "Holder").ready()
        waiting = other.new_page()
        waiting.goto(site.link("Waiting"))
        waiting.get_by_role("button", name="Close").click()
        expect(waiting.get_by_role("heading", name="All done. Thank you!")).to_be_visible()
        holder.press("s")
        holder.page.keyboard.press("1")
        holder.saved()
        waiting.get_by_role("button", name="Look again").click()
        waiting.wait_for_selector('#main[data-state="pair ready"]')
    assert [row.choice for row in votes_of(project)] == ["skip"]


def test_the_time_of_a_hidden_page_does_not_count(browser: Browser, tmp_path: Path) -> None:
    project = make_project(tmp_path / "label.db", plain_pairs(2), overlap=1)
    with served(project) as site, window(browser, site.address) as tab:
        page = tab.new_page()
        page.clock.install()
        page.goto(site.link("Ada"))
        page.get_by_role("button", name="Close").click()
        page.clock.run_for(5_000)
        hide = "(state) => { Object.defineProperty(document, 'visibilityState', { value: state, configurable: true }); "
        hide += "document.dispatchEvent(new Event('visibilitychange')); }"
        page.evaluate(hide, "hidden")
        page.clock.run_for(1_000_000)
        page.evaluate(hide, "visible")
        page.clock.run_for(2_000)
        page.keyboard.press("1")
        page.wait_for_selector('#main[data-unsaved="0"]', state="attached")
        expect(page.locator("#last")).to_have_text("Saved: Left is better")
    (row,) = votes_of(project)
    assert 7_000 <= row.dwell_ms < 60_000


def test_an_undo_without_connection_waits_for_its_vote(browser: Browser, tmp_path: Path) -> None:
    project = make_project(tmp_path / "label.db", plain_pairs(4), overlap=1)
    with served(project) as site, window(browser, site.address) as tab:
        tab.expected.append("ERR_INTERNET_DISCONNECTED")
        page = site.open(tab).ready()
        first = page.number()
        tab.context.set_offline(True)
        page.press("1").press("u")
        expect(page.page.get_by_role("button", name="Tie")).to_be_disabled()  # no vote until it is clear on what
        page.page.keyboard.press("0")
        tab.context.set_offline(False)
        expect(page.page.locator("#last")).to_have_text("Taken back: Left is better")
        assert page.saved().ready().number() == first
        page.press("2").saved()
    (row,) = votes_of(project)
    assert row.pair_key == f"secret-key-{first}"
    assert row.choice != row.left
    assert (num_events(project), num_events(project, "undo")) == (2, 1)


def test_guidelines_of_another_project_at_the_same_address(browser: Browser, tmp_path: Path) -> None:
    """A new project on the same port has version 1 again: its guidelines are shown, and are not called changed."""
    project = make_project(tmp_path / "label.db", plain_pairs(2), overlap=1)
    with served(project) as site, window(browser, site.address) as tab:
        page = site.open(tab)
        page.page.evaluate("() => localStorage.setItem('tiltlm.guidelines.Ada', '1 12345')")
        page.page.reload()
        dialog = page.page.get_by_role("dialog", name="Guidelines")
        expect(dialog).to_be_visible()
        expect(dialog).not_to_contain_text("have changed")


def test_a_server_that_is_away_at_the_start_is_asked_again(browser: Browser, tmp_path: Path) -> None:
    project = make_project(tmp_path / "label.db", plain_pairs(2), overlap=1)
    faults: list[Faults] = []
    with (
        served(project, lambda app: faults.append(Faults(app)) or faults[0]) as site,
        window(browser, site.address) as tab,
    ):
        tab.expected.append("503")
        page = site.open(tab).ready()
        faults[0].answer |= {"/api/me": 503, "/api/work": 503}
        page.page.reload()
        banner = page.page.locator("#banner")
        expect(banner).to_have_text("The server does not answer. Trying again …")
        faults[0].answer.clear()
        page.ready()
        expect(banner).to_be_hidden()


@pytest.mark.parametrize(("role", "place"), [("adjudicator", "/adjudicate"), ("admin", "/admin")])
def test_people_who_do_not_vote_are_sent_to_their_page(browser: Browser, tmp_path: Path, role: str, place: str) -> None:
    project = make_project(tmp_path / "label.db", plain_pairs(2), overlap=1)
    with served(project) as site, window(browser, site.address) as tab:
        tab.expected.append("403")
        page = tab.new_page()
        page.goto(site.link("Zoe", role))
        page.wait_for_url(f"{site.address}{place}")
        page.goto(site.address)
        expect(page.get_by_role("heading", name="This page is for annotators")).to_be_visible()
        page.locator("#message-link").click()
        page.wait_for_url(f"{site.address}{place}")
    assert num_events(project) == 0


def test_without_https_on_another_machine(browser: Browser, tmp_path: Path) -> None:
    """Browsers keep functions such as randomUUID from pages without HTTPS elsewhere; votes do not need them."""
    project = make_project(tmp_path / "label.db", plain_pairs(3), overlap=1)
    with served(project) as local:
        site = replace(local, address=local.address.replace("127.0.0.1", OTHER_HOST))
        with window(browser, site.address) as tab:
            tab.expected.append("Cross-Origin-Opener-Policy header has been ignored")
            page = site.open(tab).ready()
            assert not page.page.evaluate("() => isSecureContext")
            page.press("1").saved().press("u")
            expect(page.page.locator("#last")).to_have_text("Taken back: Left is better")
            page.press("0").saved()
    assert [row.choice for row in votes_of(project)] == ["tie"]
