"""A pair as the browser gets it."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import select

from support.labelling import HOST, Browser, invite, make_project, open_browser, plain_pairs
from tiltlm.labeling.store.database import reading
from tiltlm.labeling.store.pairs import NewPair
from tiltlm.labeling.store.projects import Project
from tiltlm.labeling.store.tables import event, pair
from tiltlm.labeling.web import messages
from tiltlm.labeling.web.app import create_app
from tiltlm.labeling.web.rendering import MAX_MARKDOWN


@pytest.fixture
def projects(tmp_path: Path) -> Iterator[list[Project]]:
    made: list[Project] = []
    yield made
    for one in made:
        one.engine.dispose()


def shown(folder: Path, projects: list[Project], one: NewPair) -> dict[str, Any]:
    """Return what a person sees of a pair."""
    projects.append(make_project(folder / "one.db", [one]))
    app = create_app(projects[-1], hosts=[HOST])
    (item,) = open_browser(app, invite(projects[-1], "Ann")).work()
    return item


def test_a_conversation_keeps_its_turns(tmp_path: Path, projects: list[Project]) -> None:
    turns = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "**two**"}]
    more = [{"role": "assistant", "content": "x"}, {"role": "tool", "content": "y"}]
    item = shown(tmp_path, projects, NewPair(turns, more, "plain", system="Be *kind*."))
    assert item["prompt"][1] == {"role": "assistant", "html": "<p><strong>two</strong></p>", "text": "**two**"}
    assert sorted([len(item["left"]), len(item["right"])]) == [1, 2]
    assert item["system"] == {"html": "<p>Be <em>kind</em>.</p>", "text": "Be *kind*."}


def test_what_is_no_text_is_shown_as_json(tmp_path: Path, projects: list[Project]) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "search"}]}
    item = shown(tmp_path, projects, NewPair("q", [call], [{"role": "assistant", "content": [{"type": "text"}]}]))
    texts = {item["left"][0]["text"], item["right"][0]["text"]}
    assert any('"name": "search"' in text for text in texts)
    assert any('"type": "text"' in text for text in texts)


ODD = {
    "empty": "",
    "lone surrogates": "a\ud800b\udfff",
    "NUL": "a\0b",
    "right to left": "\u202eevil\u2066x",
    "family": "👩‍👩‍👧‍👦" * 100,
    "long": "語" * 10_000,
    "one line": "x" * 30_000,
}


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_odd_texts_arrive_as_they_are(tmp_path: Path, projects: list[Project], text: str) -> None:
    item = shown(tmp_path, projects, NewPair(text or "q", text, "other", system=text))
    sides = [item["left"][0], item["right"][0]]
    (side,) = [one for one in sides if one["text"] == text]
    side["html"].encode("utf-8")
    assert "\0" not in side["html"]
    assert (item["system"] is None) == (not text)


def test_much_text_stays_bounded(tmp_path: Path, projects: list[Project]) -> None:
    """A prompt of a megabyte, and a long conversation after it: the newest turns are Markdown, the others plain."""
    turns = [{"role": "user", "content": "**x** " * 170_000}] + [
        {"role": role, "content": f"**turn** {n}"} for n in range(100) for role in ("assistant", "user")
    ]
    item = shown(tmp_path, projects, NewPair(turns, "**a**", "**b**"))
    assert item["prompt"][0]["text"] == turns[0]["content"]
    assert item["prompt"][0]["html"].startswith("<pre>**x** ")
    assert all(turn["html"].startswith("<p><strong>turn") for turn in item["prompt"][1:])
    assert item["left"][0]["html"].startswith("<p><strong>")


def test_both_sides_are_markdown_or_neither(tmp_path: Path, projects: list[Project]) -> None:
    item = shown(tmp_path, projects, NewPair("q", "**short**", "**x** " * (MAX_MARKDOWN // 6)))
    assert item["left"][0]["html"].startswith("<pre>")
    assert item["right"][0]["html"].startswith("<pre>")
    assert item["prompt"][0]["html"] == "<p>q</p>"


SECRETS = (
    "secret-",
    "0.123",
    "0.456",
    '"a"',
    '"b"',
    "gold",
    "repeat",
    '"task"',
    "pair",
    "source",
    "model",
    "sampling",
    "digest",
)


def all_answers(browser: Browser, num: int) -> list[str]:
    """Return every text that a person gets in a session that uses everything."""
    found = [browser.get("/api/me").text]
    items = browser.post("/api/work")
    found.append(items.text)
    current = items.json()["items"]
    for n in range(num):
        if not current:
            break
        found.append(browser.get(f"/api/items/{current[0]['ticket']}/diff").text)
        choice = ("left", "right", "tie", "both_bad", "skip")[n % 5]
        answer = browser.vote(current[0], choice, **({"reason": "cannot judge"} if choice == "skip" else {}))
        found.append(answer.text)
        if n % 7 == 3:
            found.append(browser.post("/api/undo", {"key": browser.key()}).text)
            answer = browser.post("/api/work")
        current = answer.json()["items"]
    return found


@pytest.fixture
def mixed(tmp_path: Path, projects: list[Project]) -> FastAPI:
    """A project with calibration, silent gold and repeats."""
    pairs = plain_pairs(60)
    gold = [
        NewPair(f"Known {kind[:2]} {n}?", f"x{n}", f"y{n}", key=f"secret-{kind}-{n}", kind=kind, answer="a")
        for kind in ("gold", "calibration")
        for n in range(6)
    ]
    made = make_project(
        tmp_path / "mixed.db",
        [*pairs, *gold],
        gold_share=0.2,
        repeat_share=0.2,
        repeat_gap=5,
        calibration=6,
        overlap=1,
    )
    projects.append(made)
    return create_app(made, hosts=[HOST])


def test_no_answer_tells_who_wrote_what_or_what_is_a_check(mixed: FastAPI, projects: list[Project]) -> None:
    found = all_answers(open_browser(mixed, invite(projects[-1], "Ann")), 80)
    with reading(projects[-1].engine) as connection:
        rows = connection.execute(select(pair.c.kind, event.c.is_repeat).join(event, event.c.pair_id == pair.c.id))
        assert {tuple(row) for row in rows} >= {
            ("task", False),
            ("task", True),
            ("gold", False),
            ("calibration", False),
        }
    for text in found:
        for secret in SECRETS:
            assert secret not in text, secret


def test_an_item_says_nothing_else(mixed: FastAPI, projects: list[Project]) -> None:
    items = open_browser(mixed, invite(projects[-1], "Ann")).work()
    for item in items:
        assert set(item) == {"ticket", "is_calibration", "system", "prompt", "left", "right"}
    assert items[0]["is_calibration"] is True


def test_the_number_left_falls_by_one_whatever_a_pair_is(mixed: FastAPI, projects: list[Project]) -> None:
    """If it stood still after a pair that is a check, it would tell so."""
    browser = open_browser(mixed, invite(projects[-1], "Ann"))
    items, seen = browser.work(), []
    while items:
        answer = browser.vote(items[0]).json()
        items = answer["items"]
        seen.append(answer["progress"])
    lessons, votes = seen[:6], seen[6:]
    assert [one["calibration_left"] for one in lessons] == [5, 4, 3, 2, 1, 0]
    assert [one["done"] for one in lessons] == [0] * 6
    assert [one["done"] for one in votes] == list(range(1, len(votes) + 1))
    left = [one["left"] for one in votes]
    steps = [before - after for before, after in pairwise(left)]
    assert steps.count(1) >= 0.9 * len(steps), left
    assert left[-1] == 0


def test_answers_are_as_described(mixed: FastAPI, projects: list[Project]) -> None:
    browser = open_browser(mixed, invite(projects[-1], "Ann"))
    messages.Me.model_validate_json(browser.get("/api/me").text, strict=True)
    work = browser.post("/api/work")
    messages.Work.model_validate_json(work.text, strict=True)
    item = work.json()["items"][0]
    messages.Diff.model_validate_json(browser.get(f"/api/items/{item['ticket']}/diff").text, strict=True)
    messages.Voted.model_validate_json(browser.vote(item).text, strict=True)
    messages.UndoneWork.model_validate_json(browser.post("/api/undo", {"key": browser.key()}).text, strict=True)
