"""The page of a comparison: what it says, that it stands alone, and its JSON and Markdown."""

import json
import re

import numpy as np
import pytest

from support.answered import Lengths, Says, row, system
from tiltlm.evaluation.answers.system_comparison import SystemComparison, compare_systems
from tiltlm.evaluation.answers.systems import System
from tiltlm.report.answers.compare import compare_markdown, headline, render_compare, summary_lines, write_compare
from unit.report.test_page import HOSTILE, Page


def answers(name: str, n: int, mean: float, seed: int, temperatures=(None,)) -> System:
    rng = np.random.default_rng(seed)
    rows = [
        row(f"prompt {i}", "x" * int(rng.poisson(mean)), temperature=t, category="odd" if i % 2 else "even")
        for i in range(n)
        for t in temperatures
    ]
    return System(name, tuple(rows))


@pytest.fixture(scope="module")
def three() -> SystemComparison:
    return compare_systems([answers(name, 60, 20 + 8 * k, k, (0.0, 1.0)) for k, name in enumerate("abc")], Lengths())


def two(verdict, n: int = 120) -> SystemComparison:
    a, b = ({f"p{i}": f"{word} {i}" for i in range(n)} for word in ("good", "fine"))
    return compare_systems([system("a", a), system("b", b)], Says(verdict))


@pytest.mark.parametrize(
    ("verdict", "outcome", "colour"),
    [
        (lambda a, b: "left" if a > b else "right", "first", "better"),
        (lambda a, b: "left" if a < b else "right", "second", "better"),
        (lambda a, b: "tie", "undecided", ""),
        (lambda a, b: "error", "no_headline", "cautious"),
    ],
)
def test_the_verdict(verdict, outcome, colour):
    found = two(verdict)
    assert (headline(found).outcome, headline(found).colour) == (outcome, colour)
    assert f'data-outcome="{outcome}"' in render_compare(found)


def test_the_second_is_praised_with_its_own_numbers():
    (sentence,) = headline(two(lambda a, b: "left" if a < b else "right")).sentences
    assert sentence.startswith("b beats a")
    assert "100" in sentence


@pytest.mark.parametrize(
    ("verdict", "n", "key"),
    [
        (lambda a, b: "left" if a > b else "right", 20, "few_prompts"),
        (lambda a, b: "left", 60, "contradictions"),
        (lambda a, b: "both_bad" if a.endswith("1") or b.endswith("1") else "tie", 60, "both_bad"),
        (lambda a, b: "error" if "17" in a + b else "tie", 60, "errors"),
    ],
)
def test_cautions(verdict, n, key):
    assert key in {remark.key for remark in headline(two(verdict, n)).cautions}


def test_length_that_explains_a_difference_is_a_caution():
    found = compare_systems([answers("a", 300, 32, 1), answers("b", 300, 30, 2)], Lengths())
    keys = {remark.key for remark in headline(found).cautions}
    assert ("length" in keys) == (found.pairs[0].length_control.rate.low <= 0.5 and found.pairs[0].win_rate.is_decided)


def test_the_page_of_three_systems_has_every_section_and_stands_alone(three):
    html = render_compare(three)
    page = Page(html)
    for key in ("rates", "strength", "temperatures", "categories", "outcomes", "answers", "examples"):
        assert f'id="{key}"' in html, key
    assert page.loads() == []
    assert page.tags["script"] == 0
    assert not re.search(r"https?:|//[a-z]|@import|xmlns", html)
    ids = page.named("id")
    assert len(ids) == len(set(ids))


def test_hostile_text_is_shown_and_nothing_else():
    a, b = (System(name, (row(HOSTILE, HOSTILE + end, category=HOSTILE),)) for name, end in ((HOSTILE, ""), ("b", "x")))
    judge = Says(lambda a, b: "left" if len(a) > len(b) else "right")
    page = Page(render_compare(compare_systems([a, b], judge)))
    assert page.tags["script"] == page.tags["img"] == 0
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert "<script>alert('x')</script>" in page.visible_text()


def test_json_and_page_are_written_and_the_summary_on_demand(three, tmp_path):
    assert write_compare(tmp_path, three) == tmp_path / "compare.html"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["compare.html", "compare.json"]
    twin = json.loads((tmp_path / "compare.json").read_text())
    assert twin["schema"] == "tiltlm.compare/1"
    assert twin["pairs"][0]["win_rate"]["rate"]["estimate"] == three.pairs[0].win_rate.rate.estimate
    assert len(twin["contests"]) == len(three.contests)
    write_compare(tmp_path, three, markdown=True)
    assert "a against b" in (tmp_path / "compare.md").read_text()


def test_markdown_has_tables_of_equal_width():
    a, b = ({f"p{i}": word for i in range(9)} for word in ("x|y", "*z*"))
    text = compare_markdown(compare_systems([system("a|b", a), system("<b>", b)], Lengths()))
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 2
    for lines in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert "<b>" not in text.replace("\\<b\\>", "")


def test_a_terminal_gets_the_outcome_and_the_counts(three):
    lines = summary_lines(three)
    assert sum(" beats " in line or "told apart" in line for line in lines) == 3
    assert sum(line.startswith(("a against b:", "a against c:", "b against c:")) for line in lines) == 3
