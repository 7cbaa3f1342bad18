"""The labelling page for everybody: axe on each state, names for screen readers, focus, small screens, zoom, motion."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from support.browsers import check_accessibility, window
from support.label_page import Faults, LabelPage, served
from support.labelling import make_project, plain_pairs
from tiltlm.labeling.store.pairs import NewPair

TEXT = """## Steps

1. Read the **question**, see [the page](https://example.org/page).
2. Write `code`:

```python
print("a long line " + "of code that is wider than any phone is " * 3)
```

> A quote.

| a | much wider column than a phone has room for | c |
|---|:---:|--:|
| 1 | 2 | 3 |
"""
LESSON = NewPair(
    prompt=[
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hello! " * 30},
        {"role": "user", "content": "Question 1? " + "More words. " * 100},
    ],
    a=f"The first answer\n\n{TEXT}" * 3,
    b=f"Another answer\n\n{TEXT}",
    system="Answer in *English*.",
    key="lesson",
    kind="calibration",
    answer="a",
    explanation=f"Because.\n\n{TEXT}",
)
SCREENS = [("wide", "light"), ("wide", "dark"), ("phone", "light"), ("phone", "dark")]


def states(page: LabelPage, faults: Faults) -> Iterator[str]:
    """Bring the page into one state after the other."""
    tab, keyboard = page.page, page.page.keyboard
    expect(tab.get_by_role("dialog", name="Guidelines")).to_be_visible()
    yield "guidelines"
    keyboard.press("Escape")
    page.ready()
    yield "practice"
    if tab.get_by_role("button", name="Right (not seen yet)").is_visible():
        tab.get_by_role("button", name="Right (not seen yet)").click()
    page.press("p", "n")
    keyboard.type("a note")
    yield "whole prompt and note"
    keyboard.press("Escape")
    page.press("d")
    tab.wait_for_selector("mark", state="attached")
    yield "differences"
    page.press("r")
    yield "raw"
    page.press("r", "?")
    yield "help"
    keyboard.press("Escape")
    page.press("s")
    yield "reasons of a skip"
    keyboard.press("Escape")
    page.press("1")
    yield "strength"
    page.press("3")
    expect(tab.locator("#feedback-row")).to_be_visible()
    yield "feedback"
    keyboard.press("Enter")
    page.ready()
    yield "line"
    tab.evaluate("() => document.getElementById('show-right').click()")
    faults.answer["/api/votes"] = 507
    page.press("0")
    expect(tab.locator("#banner")).to_contain_text("disk")
    yield "banner"
    faults.answer.clear()
    page.saved().ready()
    page.press("u")
    expect(tab.locator("#last")).to_have_text("Taken back: Tie")
    page.ready()
    yield "undone"
    page.press("0").saved().ready()
    tab.evaluate("() => document.getElementById('show-right').click()")
    page.press("0")
    expect(tab.get_by_role("heading", name="All done. Thank you!")).to_be_visible()
    yield "done"


@pytest.mark.slow
@pytest.mark.parametrize(("size", "scheme"), SCREENS)
def test_axe_finds_nothing_in_any_state(browser: Browser, tmp_path: Path, size: str, scheme: str) -> None:
    """No state has a violation, and none is wider than the screen."""
    pairs = [LESSON, *plain_pairs(2)]
    project = make_project(tmp_path / "label.db", pairs, overlap=1, calibration=1, strength=True)
    faults: list[Faults] = []
    seen = []
    with (
        served(project, lambda app: faults.append(Faults(app)) or faults[0]) as site,
        window(browser, site.address, size, scheme=scheme) as tab,
    ):
        tab.expected += ["507", "401"]
        page = site.open(tab, is_first_visit=True)
        for state in states(page, faults[0]):
            seen.append(state)
            check_accessibility(page.page)
            assert page.page.evaluate(
                "() => document.documentElement.scrollWidth <= document.documentElement.clientWidth"
            ), state
        page.page.goto(f"{site.address}/join#wrong")
        expect(page.page.get_by_role("heading", name="This link does not work")).to_be_visible()
        check_accessibility(page.page)
        tab.context.clear_cookies()
        page.page.goto(site.address)
        expect(page.page.get_by_role("heading", name="Your link has ended")).to_be_visible()
        check_accessibility(page.page)
    assert len(seen) == 13


def on_page(browser: Browser, folder: Path, size: str, check: Callable[[LabelPage], None], **options: str) -> None:
    """Open a page with pairs of long texts, and check it."""
    long = [NewPair(prompt=f"Question {n}?", a=TEXT * 6, b=f"Another\n\n{TEXT * 3}", key=f"k{n}") for n in range(3)]
    with (
        served(make_project(folder / "label.db", long, overlap=1)) as site,
        window(browser, site.address, size, **options) as tab,
    ):
        check(site.open(tab).ready())


def test_names_for_screen_readers(browser: Browser, tmp_path: Path) -> None:
    def check(page: LabelPage) -> None:
        tab = page.page
        for region in ("Prompt", "Left", "Right", "Your vote"):
            expect(tab.get_by_role("region", name=region, exact=True)).to_be_visible()
        for landmark in ("banner", "main"):
            expect(tab.get_by_role(landmark)).to_have_count(1)
        names = ["Left is better", "Tie", "Both bad", "Right is better"]
        group = tab.get_by_role("group", name="Which response is better?")
        assert [one.inner_text().split("\n")[0] for one in group.get_by_role("button").all()] == names
        for name in (*names, "Skip", "Undo", "Note", "Raw", "Differences", "Scroll together", "Guidelines", "Help"):
            expect(tab.get_by_role("button", name=name, exact=True)).to_be_visible()
        expect(tab.get_by_role("progressbar", name="0 done · 3 left")).to_be_visible()
        expect(tab.get_by_role("button", name="Scroll together")).to_have_attribute("aria-pressed", "true")
        page.press("1").saved().ready()
        expect(tab.locator("#announce")).to_have_text("Left is better. Pair 2.")
        expect(tab.get_by_role("heading", name="Pair 2")).to_be_focused()
        assert tab.title() == "1/3 · Which response is better?"
        tab.keyboard.press("Tab")
        expect(tab.get_by_role("region", name="Prompt")).to_be_focused()

    on_page(browser, tmp_path, "laptop", check)


def test_focus_comes_back_from_dialogs_and_panels(browser: Browser, tmp_path: Path) -> None:
    def check(page: LabelPage) -> None:
        tab = page.page
        for name, dialog in (("Help", "Keys"), ("Guidelines", "Guidelines"), ("Skip", "Why skip this pair?")):
            tab.get_by_role("button", name=name, exact=True).click()
            expect(tab.get_by_role("dialog", name=dialog)).to_be_visible()
            assert tab.evaluate("() => document.querySelector('dialog[open]').contains(document.activeElement)")
            tab.keyboard.press("Escape")
            expect(tab.get_by_role("button", name=name, exact=True)).to_be_focused()
        tab.get_by_role("button", name="Note").click()
        expect(tab.get_by_label("Note on this pair")).to_be_focused()
        tab.keyboard.press("Escape")
        expect(tab.get_by_role("button", name="Note")).to_be_focused()
        tab.evaluate("() => document.activeElement.blur()")
        tab.get_by_role("link", name="Skip to the content").focus()
        expect(tab.get_by_role("link", name="Skip to the content")).to_be_in_viewport()

    on_page(browser, tmp_path, "laptop", check)


def test_scrolling_together_and_by_key(browser: Browser, tmp_path: Path) -> None:
    def top(page: LabelPage, side: str) -> float:
        page.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return float(page.page.evaluate("(side) => document.getElementById(side).scrollTop", side))

    def check(page: LabelPage) -> None:
        page.press("ArrowDown", "ArrowDown")
        assert top(page, "left") == top(page, "right") == 120
        page.page.evaluate("() => { document.getElementById('right').scrollTop = 200; }")
        assert top(page, "left") == 200
        page.press("y")
        page.page.evaluate("() => { document.getElementById('right').scrollTop = 50; }")
        assert (top(page, "left"), top(page, "right")) == (200, 50)
        page.page.evaluate(  # two keys within one frame: the scroll of the first must not undo that of the second
            "() => ['y', 'End'].forEach((key) => document.dispatchEvent(new KeyboardEvent('keydown', { key })))"
        )
        page.page.wait_for_function(  # the shorter one reaches its end before
            "() => ['left', 'right'].every((id) => { const own = document.getElementById(id); "
            "return own.scrollHeight - own.clientHeight - own.scrollTop < 2; })"
        )
        assert top(page, "left") != 200
        page.press("1").saved().ready()
        assert top(page, "left") == top(page, "right") == 0

    on_page(browser, tmp_path, "laptop", check)


def test_a_phone_shows_one_response_at_a_time(browser: Browser, tmp_path: Path) -> None:
    def check(page: LabelPage) -> None:
        tab = page.page
        vote = tab.get_by_role("button", name="Left is better")
        left, right = (tab.get_by_role("region", name=name, exact=True) for name in ("Left", "Right"))
        expect(left).to_be_visible()
        expect(right).to_be_hidden()
        tab.evaluate("() => scrollTo(0, document.body.scrollHeight)")
        expect(vote).to_be_in_viewport(ratio=1)
        tab.get_by_role("button", name="Right (not seen yet)").tap()
        expect(right).to_be_visible()
        expect(left).to_be_hidden()
        expect(tab.get_by_role("button", name="Right", exact=True)).to_have_attribute("aria-pressed", "true")
        expect(vote).to_be_in_viewport(ratio=1)
        tab.wait_for_function("() => scrollY <= document.getElementById('switch').offsetTop + 1")
        vote.tap()
        page.saved().ready()
        expect(left).to_be_visible()
        assert tab.evaluate("() => scrollY") == 0

    on_page(browser, tmp_path, "phone", check)


def test_zoom_of_200_percent(browser: Browser, tmp_path: Path) -> None:
    """At 1280 × 720 and 200 % the page has 640 × 360 pixels of CSS: all is reachable without scrolling sideways."""

    def check(page: LabelPage) -> None:
        tab = page.page
        tab.set_viewport_size({"width": 640, "height": 360})
        assert tab.evaluate("() => document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        for name in ("Left is better", "Right is better", "Skip", "Undo"):
            expect(tab.get_by_role("button", name=name)).to_be_in_viewport(ratio=1)
        bar = tab.get_by_role("region", name="Your vote").bounding_box()
        assert bar is not None
        assert bar["height"] < 100
        for name in ("Left", "Right"):
            expect(tab.get_by_role("region", name=name, exact=True)).to_be_visible()
        tab.set_viewport_size({"width": 320, "height": 256})  # 400 %
        assert tab.evaluate("() => document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        check_accessibility(tab)

    on_page(browser, tmp_path, "laptop", check)


@pytest.mark.parametrize(("motion", "moves"), [("reduce", False), ("no-preference", True)])
def test_motion_only_where_it_is_wanted(browser: Browser, tmp_path: Path, motion: str, moves: bool) -> None:
    def check(page: LabelPage) -> None:
        page.page.evaluate(
            "() => { window.animated = 0; const own = Element.prototype.animate; "
            "Element.prototype.animate = function (...all) { window.animated += 1; return own.apply(this, all); }; }"
        )
        page.press("1").saved().ready()
        assert (page.page.evaluate("() => window.animated") > 0) == moves
        assert page.page.evaluate(
            "() => [...document.querySelectorAll('*')].every((one) => { const style = getComputedStyle(one); "
            "return style.animationName === 'none' && style.transitionDuration === '0s'; })"
        )

    on_page(browser, tmp_path, "laptop", check, motion=motion)


def test_dark_mode_is_dark(browser: Browser, tmp_path: Path) -> None:
    def lightness(page: LabelPage) -> float:
        color = page.page.evaluate("() => getComputedStyle(document.getElementById('left')).backgroundColor")
        return sum(int(part) for part in color[4:-1].split(",")[:3]) / 765

    found = {}
    for scheme in ("light", "dark"):
        folder = tmp_path / scheme
        folder.mkdir()
        on_page(browser, folder, "wide", lambda page: found.update({scheme: lightness(page)}), scheme=scheme)  # noqa: B023
    assert found["dark"] < 0.15 < 0.9 < found["light"]
