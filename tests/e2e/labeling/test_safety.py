"""Strangers' texts in a real browser: nothing of them runs, loads, or takes the place of a part of the page."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from support.browsers import window
from support.label_page import LabelPage, Site, served, votes_of
from support.labelling import make_project
from tiltlm.labeling.store.database import writing
from tiltlm.labeling.store.pairs import NewPair
from tiltlm.labeling.store.projects import add_guidelines

PAYLOADS = (Path(__file__).parents[2] / "support" / "xss_payloads.txt").read_text(encoding="utf-8").splitlines()
ALL = "\n\n".join(PAYLOADS)


def hostile_pair(num: int, payloads: list[str]) -> NewPair:
    """Return a pair that has payloads wherever a pair has text."""
    joined = "\n\n".join(payloads)
    return NewPair(
        prompt=[{"role": "user", "content": joined}, {"role": "assistant", "content": joined}] * 2
        + [{"role": "user", "content": f"Question {num}?\n\n{joined}"}],
        a=f"The first answer\n\n{joined}",
        b=f"Another answer\n\n{joined}\n\n{joined}",
        system=joined,
        key=f"hostile-{num}",
        kind="calibration" if num == 0 else "task",
        answer="tie" if num == 0 else None,
        explanation=joined if num == 0 else "",
    )


def check_inert(page: Page) -> None:
    """Require that nothing ran, that no element is there that could, and that links lead to the web only."""
    found = page.evaluate(
        """() => ({
            canary: typeof window.canary,
            dangerous: [...document.querySelectorAll(
                'main script, dialog script, iframe, object, embed, svg, math, video, audio, img, form, style, base, '
                + 'meta[http-equiv], body link, [style], portal, template')].map((one) => one.outerHTML.slice(0, 80)),
            handlers: [...document.querySelectorAll('*')].filter((one) =>
                [...one.attributes].some((attribute) => attribute.name.startsWith('on'))).map((one) => one.outerHTML),
            links: [...document.querySelectorAll('a[href]')].map((one) => one.href).filter((href) => {
                return !/^(https?|mailto):/.test(href); }),
            ids: [...document.querySelectorAll('[id]')].map((one) => one.id)
                .filter((id, at, all) => all.indexOf(id) !== at),
            names: document.querySelectorAll('[name=canary], [name=sessionStorage]').length,
        })"""
    )
    assert found == {"canary": "undefined", "dangerous": [], "handlers": [], "links": [], "ids": [], "names": 0}


def hover_everything(page: Page) -> None:
    """Move the pointer and the focus over the texts, as handlers could wait for that."""
    page.evaluate(
        """() => { for (const one of document.querySelectorAll('main *')) {
            for (const name of ['mouseover', 'mouseenter', 'focus', 'pointerenter', 'toggle'])
                one.dispatchEvent(new Event(name, { bubbles: true })); } }"""
    )


def look_at(page: LabelPage) -> None:
    """Look at a pair in every way that the page has."""
    page.ready()
    for key in ("p", "r", "r", "d"):
        page.press(key)
        if key == "d":
            page.page.wait_for_selector("mark")
        hover_everything(page.page)
        check_inert(page.page)


@pytest.mark.slow
def test_strangers_texts_are_inert(browser: Browser, tmp_path: Path) -> None:
    """Payloads in prompt, system prompt, responses, explanation, guidelines, title, reasons, name, note do nothing."""
    assert len(PAYLOADS) > 40
    chunks = [PAYLOADS[start : start + 11] for start in range(0, len(PAYLOADS), 11)]
    pairs = [hostile_pair(num, chunk) for num, chunk in enumerate(chunks)]
    script, image = "<script>window.canary=1</script>", "<img src=x onerror=window.canary=1>"
    settings = {"title": f"Which? {script}{image}", "skip_reasons": (image, "</button>" + script, "{{ 7 * 7 }}")}
    project = make_project(tmp_path / "label.db", pairs, overlap=1, calibration=1, **settings)
    with writing(project.engine) as connection:
        add_guidelines(connection, ALL)
    name = "Eve <img src=x onerror=window.canary=1>"
    with served(project) as site, window(browser, site.address) as tab:
        page = site.open(tab, name, is_first_visit=True)
        expect(page.page.get_by_role("dialog", name="Guidelines")).to_be_visible()
        check_inert(page.page)
        page.page.keyboard.press("Escape")
        look_at(page)
        page.press("1")
        expect(page.page.locator("#feedback-row")).to_be_visible()
        check_inert(page.page)
        page.page.keyboard.press("Enter")
        note = image + script
        for _ in pairs[1:]:
            look_at(page)
            page.press("n")
            page.page.keyboard.type(note)
            page.page.keyboard.press("Escape")
            page.press("1").saved()
        page.page.keyboard.press("u")
        page.ready().press("n")
        expect(page.page.get_by_label("Note on this pair")).to_have_value(note)
        page.page.keyboard.press("Escape")
        page.press("s")
        check_inert(page.page)
        expect(page.page.get_by_role("button", name=image)).to_be_visible()
        page.page.keyboard.press("Escape")
        page.press("?")
        expect(page.page.get_by_text(name)).to_be_visible()
        check_inert(page.page)
        assert page.page.title().endswith(settings["title"])
        assert page.page.evaluate("() => typeof window.canary") == "undefined"
    assert {row.note for row in votes_of(project)} == {"", note}


def test_the_test_would_see_a_script_that_runs(browser: Browser, tmp_path: Path) -> None:
    """The checks above find what they look for."""
    project = make_project(tmp_path / "label.db", [hostile_pair(1, PAYLOADS[:2])], overlap=1)
    with served(project) as site:
        with window(browser, site.address) as tab:
            tab.expected.append(".")
            page = site.open(tab)
            page.page.evaluate("() => document.getElementById('main').insertAdjacentHTML('beforeend', '<b onclick=1>')")
            with pytest.raises(AssertionError, match="onclick"):
                check_inert(page.page)
            page.page.evaluate("() => { new Image().src = 'http://evil.example/x.png'; }")
            page.page.evaluate("() => { window.canary = 1; }")
            with pytest.raises(AssertionError, match="canary"):
                check_inert(page.page)
            page.page.wait_for_timeout(300)
        assert any(one == "request: http://evil.example/x.png" for one in tab.problems)
        assert site.app.state.csp_reports
        site.app.state.csp_reports.clear()


def test_a_link_leaves_the_address_at_once(browser: Browser, tmp_path: Path) -> None:
    """The token is sent in one body, and is in no address that the browser keeps or sends."""
    project = make_project(tmp_path / "label.db", [hostile_pair(1, PAYLOADS[:1])], overlap=1)
    with served(project) as site, window(browser, site.address) as tab:
        link = site.link("Ada")
        token = link.split("#")[1]
        page = tab.new_page()
        addresses: list[str] = []
        page.on("request", lambda request: addresses.append(request.url + str(request.headers)))
        page.goto(link)
        LabelPage(page).close_guidelines()
        assert not any(token in address for address in addresses)
        assert token not in page.url
        assert page.evaluate("() => history.length") <= 2
        (cookie,) = tab.context.cookies()
        assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == ("tiltlm_session", True, "Strict")
        assert page.evaluate("() => document.cookie") == ""
        page.go_back()
        assert token not in page.url


@pytest.mark.parametrize("link", ["#wrong", ""])
def test_a_wrong_link_says_what_to_do(browser: Browser, tmp_path: Path, link: str) -> None:
    project = make_project(tmp_path / "label.db", [hostile_pair(1, PAYLOADS[:1])], overlap=1)
    with served(project) as site, window(browser, site.address) as tab:
        tab.expected.append("401")
        page = tab.new_page()
        page.goto(f"{site.address}/join{link}")
        heading = "This link does not work" if link else "This link is not complete"
        expect(page.get_by_role("heading", name=heading)).to_be_focused()
        page.goto(site.address)
        expect(page.get_by_role("heading", name="Your link has ended")).to_be_visible()


def test_big_and_strange_texts(browser: Browser, tmp_path: Path) -> None:
    """With 900 kB, 200 turns, an empty response, lone surrogates, NUL or bidi controls the page stays usable."""
    turns = [{"role": ("user", "assistant")[n % 2], "content": f"turn {n} " + "word " * 20} for n in range(200)]
    strange = "lone \ud800 NUL \0 override \u202e txet zwj \U0001f469\u200d\U0001f4bb " + "e\u0301" * 3000
    pairs = [
        NewPair(prompt="Question 1? " + "long words " * 80_000, a="The first answer", b="x" * 30_000, key="big"),
        NewPair(prompt=[*turns, {"role": "user", "content": "Question 2?"}], a="", b=strange, key="turns"),
    ]
    project = make_project(tmp_path / "label.db", pairs, overlap=1)
    with served(project) as site, window(browser, site.address, "phone") as tab:
        page = site.open(tab)
        for _ in pairs:
            look_at_big(site, page)
        expect(page.page.get_by_role("heading", name="All done. Thank you!")).to_be_visible()
    assert len(votes_of(project)) == 2


def look_at_big(site: Site, page: LabelPage) -> None:
    """Look at a pair in raw form and with its whole prompt, and vote."""
    del site
    page.ready()
    for key in ("r", "p", "r"):
        page.press(key)
        assert page.page.evaluate("() => document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    if page.number() == 2:
        expect(page.page.get_by_text("200 earlier turns")).to_be_attached()
        expect(page.page.get_by_text("(empty)")).to_be_attached()
    page.page.get_by_role("button", name="Right (not seen yet)").click()
    page.press("1").saved()
