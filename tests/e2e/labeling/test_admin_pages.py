"""The pages of the admin and of adjudicators in a real browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import select

from support.browsers import Watched, check_accessibility, window
from support.label_crowd import cast
from support.label_page import Site, served
from support.labelling import invite, make_project
from tiltlm.labeling.store.database import reading, writing
from tiltlm.labeling.store.pairs import NewPair
from tiltlm.labeling.store.people import add_person
from tiltlm.labeling.store.tables import audit, event

PAYLOADS = (Path(__file__).parents[2] / "support" / "xss_payloads.txt").read_text(encoding="utf-8").splitlines()
ALL = "\n\n".join(PAYLOADS)
PATHS = ("/admin", "/admin/pairs?kind=", "/admin/pairs/1", "/admin/guidelines", "/admin/audit", "/adjudicate")


def make_site(folder: Path, payloads: str = "") -> Iterator[Site]:
    """Serve a project with 30 pairs of two systems, in which two people voted, one of them always left."""
    pairs = [
        NewPair(
            f"Question {n}? {payloads}",
            f"The first answer to {n}. {payloads}",
            f"**Another** answer to {n}.",
            key=f"row-{n:02}{payloads[:200]}",
            source=f"source {n % 3}{payloads[:200]}",
            models=(f"new{payloads[:200]}", "old") if n % 2 else ("old", f"new{payloads[:200]}"),
            kind="gold" if n < 5 else "task",
            answer="b" if n < 5 else None,
        )
        for n in range(30)
    ]
    with make_project(
        folder / "label.db", pairs, overlap=2, extra=0, gold_share=0.2, title=f"Title {payloads}"
    ) as made:
        with writing(made.engine) as connection:
            people = [add_person(connection, f"{name} {payloads.splitlines()[0] if payloads else ''}") for name in "AB"]
        says = {"dwell_ms": 900, "note": f"a note {payloads}"}
        cast(made, people[0], lambda given: {"choice": "left", **says}, limit=30)
        cast(made, people[1], lambda given: {"choice": "b" if given.pair_id % 3 else "tie", "dwell_ms": 9000}, limit=20)
        cast(made, people[1], lambda given: {"choice": "skip", "reason": f"a reason {payloads}"}, limit=1)
        with served(made) as site:
            yield site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    yield from make_site(tmp_path)


def enter(watched: Watched, site: Site, name: str = "olga", role: str = "admin") -> Page:
    """Open the private link of somebody new, and return the page that it leads to."""
    page = watched.new_page()
    page.goto(f"{site.address}/join#{invite(site.project, name, role)}")
    page.wait_for_url("**/admin" if role == "admin" else "**/adjudicate")
    return page


def record(site: Site) -> list[tuple[str, str]]:
    with reading(site.project.engine) as connection:
        found = connection.execute(select(audit.c.actor, audit.c.action).order_by(audit.c.id))
        return [(row.actor, row.action) for row in found]


@pytest.mark.parametrize(("size", "scheme"), [pytest.param("wide", "light", marks=pytest.mark.slow), ("phone", "dark")])
def test_pages_are_accessible_and_fit(browser: Browser, site: Site, size: str, scheme: str):
    with window(browser, site.address, size, scheme=scheme) as watched:
        page = enter(watched, site)
        for path in PATHS:
            page.goto(f"{site.address}{path}")
            for one in page.locator("details").all():
                one.evaluate("one => { one.open = true; }")
            check_accessibility(page)
            assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), path


def test_every_button_works_and_is_on_record(browser: Browser, site: Site):
    with window(browser, site.address, "wide") as watched:
        page = enter(watched, site)
        page.get_by_text("Links of 3 people").click()
        page.get_by_label("Name", exact=True).fill("chiara")
        page.get_by_label("Role").select_option("adjudicator")
        page.get_by_role("button", name="Make a private link").click()
        link = page.get_by_label("Link", exact=True).input_value()
        assert link.startswith(f"{site.address}/join#")
        with window(browser, site.address) as other:
            tab = other.new_page()
            tab.goto(link)
            tab.wait_for_url("**/adjudicate")
            expect(tab.get_by_role("link", name="Numbers")).to_have_count(0)
            page.get_by_role("button", name="End the link of chiara").click()
            expect(page.get_by_text("The link has ended.")).to_be_visible()
            tab.reload()
            expect(tab.get_by_role("heading", name="401")).to_be_visible()
            other.expected.append("401")
        page.get_by_role("button", name="New link for chiara").click()
        expect(page.get_by_label("Link", exact=True)).not_to_have_value(link)
        page.get_by_text("Download labels or votes").click()
        with page.expect_download() as download:
            page.get_by_role("button", name="Download").click()
        assert download.value.suggested_filename == "labels.jsonl"
        assert len(download.value.path().read_text().splitlines()) > 5
        page.get_by_role("link", name="Guidelines").click()
        page.get_by_label("Markdown").fill("# New rules\n\nBe *kind*.")
        page.get_by_role("button", name="Save as version 2").click()
        expect(page.locator(".prose em")).to_have_text("kind")
        page.get_by_role("link", name="Record").click()
        expect(page.locator("tbody tr")).to_have_count(5)
        page.get_by_role("button", name="Sign out").click()
        page.wait_for_url("**/join")
        assert page.goto(f"{site.address}/admin").status == 401
        watched.expected.append("401")
    assert record(site) == [("olga", what) for what in ("invite", "revoke", "invite", "export", "guidelines")]


def test_tables_sort_and_lists_are_narrowed(browser: Browser, site: Site):
    with window(browser, site.address, "wide") as watched:
        page = enter(watched, site)
        first = page.get_by_role("region", name="Numbers of annotators").locator("tbody th").first
        page.get_by_role("button", name="Votes", exact=True).click()
        expect(first).to_contain_text("A")
        page.get_by_role("button", name="Votes", exact=True).click()
        expect(first).to_contain_text("B")
        expect(page.get_by_role("columnheader", name="Votes", exact=True).first).to_have_attribute(
            "aria-sort", "ascending"
        )
        page.get_by_role("link", name="Pairs").click()
        page.get_by_label("Order").select_option("key")
        page.get_by_label("Source").select_option("source 1")
        page.get_by_role("button", name="Show").click()
        expect(page.get_by_role("status")).to_have_text("8 pairs")
        page.get_by_role("link", name="row-07").click()
        expect(page.get_by_role("heading", name="Pair row-07")).to_be_visible()
        page.get_by_role("link", name="Decide this pair").click()
        expect(page.get_by_role("button", name="Tie")).to_be_visible()


def test_pages_work_without_scripts(browser: Browser, site: Site):
    token = invite(site.project, "olga", "admin")
    context = browser.new_context(java_script_enabled=False)
    made = context.request.post(
        f"{site.address}/api/session", data={"token": token}, headers={"Sec-Fetch-Site": "same-origin"}
    )
    assert made.ok
    page = context.new_page()
    page.goto(f"{site.address}/adjudicate")
    page.get_by_label("Note").fill("without scripts")
    page.get_by_role("button", name="Right is better").click()
    page.get_by_text("Decided.").wait_for()
    context.close()
    assert record(site) == [("olga", "adjudicate")]


def test_an_adjudicator_decides_by_key(browser: Browser, site: Site):
    with window(browser, site.address) as watched:
        page = enter(watched, site, "jo", "adjudicator")
        before = int(page.locator("p.muted").first.inner_text().split()[0])
        page.get_by_label("Note").press_sequentially("12 of 20: no key decides here")
        page.locator("h1").click()
        for num, key in enumerate(("1", "2", "0", "ArrowLeft"), start=1):
            with page.expect_navigation():
                page.keyboard.press(key)
            expect(page.locator("p.muted").first).to_have_text(f"{before - num} undecided, the most disputed first.")
        with page.expect_navigation():  # keys mean nothing before the next page has loaded its script
            page.get_by_role("link", name="Change it").click()
        page.keyboard.press("Control+1")
        page.keyboard.press("0")
        expect(page.get_by_text("Decided.")).to_be_visible()
        with reading(site.project.engine) as connection:
            found = connection.execute(
                select(event.c.choice, event.c.note).where(event.c.kind == "adjudicate").order_by(event.c.id)
            ).all()
    assert [row.note for row in found] == ["12 of 20: no key decides here", "", "", "", ""]
    assert {row.choice for row in found[:2]} <= {"a", "b"}
    assert (found[2].choice, found[4].choice) == ("tie", "tie")
    assert record(site) == [("jo", "adjudicate")] * 5


def test_what_strangers_wrote_is_inert(browser: Browser, tmp_path: Path):
    for site in make_site(tmp_path, ALL):
        with window(browser, site.address) as watched:
            page = enter(watched, site)
            page.goto(f"{site.address}/admin/guidelines")
            page.get_by_label("Markdown").fill(ALL)
            page.get_by_role("button", name="Save as version 2").click()
            for path in PATHS:
                page.goto(f"{site.address}{path}")
                page.evaluate(
                    "document.querySelectorAll('main *').forEach((one) => ['mouseover', 'focus', 'toggle'].forEach("
                    "(name) => one.dispatchEvent(new Event(name, { bubbles: true }))))"
                )
                found = page.evaluate(
                    """() => ({
                        canary: typeof window.canary,
                        dangerous: document.querySelectorAll('main :is(script, iframe, object, embed, video, audio, '
                            + 'img, style, base, [style], svg:not(.interval), form:not([action^="/ad"]))').length,
                        handlers: [...document.querySelectorAll('*')].filter((one) =>
                            [...one.attributes].some((attribute) => attribute.name.startsWith('on'))).length,
                        links: [...document.querySelectorAll('a[href]')].filter((one) =>
                            !/^(https?|mailto):/.test(one.href)).length,
                    })"""
                )
                assert found == {"canary": "undefined", "dangerous": 0, "handlers": 0, "links": 0}, path
