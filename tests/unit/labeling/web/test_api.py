"""The interface between browser and server, call by call."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import select

from support.labelling import HOST, Browser, invite, make_project, open_browser, plain_pairs
from tiltlm.core.errors import ConfigError, DataError, RunError
from tiltlm.labeling.store.database import DiskFull, reading
from tiltlm.labeling.store.pairs import NewPair
from tiltlm.labeling.store.projects import Project
from tiltlm.labeling.store.tables import event
from tiltlm.labeling.web.app import create_app


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = make_project(tmp_path / "label.db", plain_pairs(6), overlap=1, title="Which one?", strength=True)
    yield made
    made.engine.dispose()


@pytest.fixture
def app(project: Project) -> FastAPI:
    return create_app(project, hosts=[HOST])


@pytest.fixture
def ann(app: FastAPI, project: Project) -> Browser:
    return open_browser(app, invite(project, "Ann"))


def code_of(answer: Any) -> str:
    return str(answer.json()["error"]["code"])


def events(project: Project) -> list[Any]:
    with reading(project.engine) as connection:
        return list(connection.execute(select(event).order_by(event.c.id)))


def test_what_a_page_needs_once(ann: Browser, app: FastAPI) -> None:
    answer = ann.get("/api/me").json()
    html = answer["guidelines"].pop("html")
    assert "<li>" in html
    assert answer == {
        "name": "Ann",
        "role": "annotator",
        "title": "Which one?",
        "ties": True,
        "strength": True,
        "skip_reasons": ["cannot judge", "needs an expert", "broken or empty text", "harmful content"],
        "guidelines": {"version": 1},
        "ui_version": app.state.ui_version,
    }


def test_a_vote_brings_the_next_pair(ann: Browser, project: Project) -> None:
    first, second = ann.work()
    assert [turn["role"] for turn in first["prompt"]] == ["user"]
    answer = ann.vote(first, "right", strength=2, note="shorter", dwell_ms=900, guideline_version=1).json()
    assert answer["items"][0] == second
    assert len(answer["items"]) == 2
    assert answer["progress"] == {"done": 1, "left": 5, "calibration_left": 0}
    assert answer["feedback"] is None
    (row,) = events(project)
    assert (row.choice, row.left) in {("b", "a"), ("a", "b")}
    assert (row.strength, row.note, row.dwell_ms, row.guideline_version) == (2, "shorter", 900, 1)
    assert row.ui_version == ann.get("/api/me").json()["ui_version"]


def test_the_side_on_the_screen_is_the_side_that_is_stored(ann: Browser, project: Project) -> None:
    for n in range(6):
        item = ann.work()[0]
        choice = "left" if n % 2 else "right"
        ann.vote(item, choice)
        row = events(project)[-1]
        text = item[choice][0]["text"]
        assert text.startswith("The first answer" if row.choice == "a" else "Another answer")


def test_reloading_keeps_the_pairs(ann: Browser) -> None:
    assert ann.work() == ann.work()


def test_the_same_vote_again_is_the_same_vote(ann: Browser, project: Project) -> None:
    body = {"ticket": ann.work()[0]["ticket"], "key": "one-key-1", "choice": "left"}
    answers = [ann.post("/api/votes", body) for _ in range(3)]
    assert [one.status_code for one in answers] == [200] * 3
    assert answers[0].json() == answers[1].json() == answers[2].json()
    assert len(events(project)) == 1


def test_another_vote_on_the_same_pair_is_refused(ann: Browser, project: Project) -> None:
    item = ann.work()[0]
    ann.vote(item)
    answer = ann.vote(item, "right")
    assert (answer.status_code, code_of(answer)) == (409, "voted")
    assert len(events(project)) == 1


@pytest.mark.parametrize("choice", ["left", "right", "tie", "both_bad", "skip"])
def test_undo_brings_back_the_pair_and_what_was_said(ann: Browser, choice: str) -> None:
    first, second = ann.work()
    ann.vote(first, choice, note="so", **({"reason": "cannot judge"} if choice == "skip" else {}))
    answer = ann.post("/api/undo", {"key": "undo-key-1"}).json()
    assert answer["undone"] == {"choice": choice, "note": "so"}
    assert answer["items"] == [first, second]
    assert answer["progress"]["done"] == 0
    assert ann.post("/api/undo", {"key": "undo-key-1"}).json() == answer
    answer = ann.post("/api/undo", {"key": "undo-key-2"})
    assert (answer.status_code, code_of(answer)) == (409, "nothing_to_undo")


def test_nothing_is_left_at_the_end(ann: Browser) -> None:
    items = ann.work()
    while items:
        answer = ann.vote(items[0]).json()
        items = answer["items"]
    assert answer["progress"] == {"done": 6, "left": 0, "calibration_left": 0}
    assert ann.work() == []


def test_a_strength_counts_where_the_project_asks_for_it(tmp_path: Path) -> None:
    project = make_project(tmp_path / "plain.db", plain_pairs(1))
    ann = open_browser(create_app(project, hosts=[HOST]), invite(project, "Ann"))
    assert ann.vote(ann.work()[0], strength=3).status_code == 200
    assert events(project)[0].strength is None


@pytest.mark.parametrize("choice", ["tie", "both_bad"])
def test_a_tie_is_refused_where_the_project_has_none(tmp_path: Path, choice: str) -> None:
    project = make_project(tmp_path / "no_ties.db", plain_pairs(1), ties=False)
    ann = open_browser(create_app(project, hosts=[HOST]), invite(project, "Ann"))
    answer = ann.vote(ann.work()[0], choice)
    assert (answer.status_code, code_of(answer)) == (409, "not_offered")


def test_calibration_gives_feedback(tmp_path: Path) -> None:
    lessons = [
        NewPair(f"q{n}", "right answer", f"wrong {n}", key=str(n), kind="calibration", answer="a", explanation="*Why*")
        for n in range(8)
    ]
    project = make_project(tmp_path / "lessons.db", lessons, calibration=8)
    ann = open_browser(create_app(project, hosts=[HOST]), invite(project, "Ann"))
    for n in range(8):
        item = ann.work()[0]
        assert item["is_calibration"]
        right = "left" if item["left"][0]["text"] == "right answer" else "right"
        said = ("left", "right", "both_bad")[n % 3]
        feedback = ann.vote(item, said).json()["feedback"]
        assert feedback == {"is_right": said == right, "answer": right, "html": "<p><em>Why</em></p>"}


def test_words_that_differ_are_marked(ann: Browser) -> None:
    item = ann.work()[0]
    answer = ann.get(f"/api/items/{item['ticket']}/diff").json()
    for side in ("left", "right"):
        assert "".join(part["text"] for part in answer[side]) == item[side][0]["text"]
    assert {part["text"].split()[0] for part in answer["left"] if part["kind"] == "changed"} & {"The", "Another"}


def test_a_diff_that_takes_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tiltlm.labeling.words.MAX_STEPS", 1000)
    texts = ["\n".join(str((n * k) % 997) for n in range(2000)) for k in (7, 11)]
    project = make_project(tmp_path / "long.db", [NewPair("q", *texts)])
    ann = open_browser(create_app(project, hosts=[HOST]), invite(project, "Ann"))
    answer = ann.get(f"/api/items/{ann.work()[0]['ticket']}/diff")
    assert (answer.status_code, code_of(answer)) == (413, "too_long")


VALID = {"ticket": "0" * 32, "key": "key-00000000", "choice": "left"}


@pytest.mark.parametrize(
    "body",
    [
        *({}, [], "x", None, 1),
        *({**VALID, "more": 1}, {**VALID, "person": "Bob"}, {**VALID, "choice": "a"}, {**VALID, "choice": "skip"}),
        *({**VALID, "choice": "skip", "reason": " "}, {**VALID, "choice": "skip", "reason": "x" * 201}),
        *({**VALID, "reason": "x"}, {**VALID, "choice": "skip", "reason": "x", "strength": 1}),
        *(
            {**VALID, "strength": 4},
            {**VALID, "strength": True},
            {**VALID, "strength": "2"},
            {**VALID, "strength": 2.5},
        ),
        *({**VALID, "dwell_ms": -1}, {**VALID, "dwell_ms": 2**31}, {**VALID, "client_time": float("nan")}),
        *({**VALID, "key": "short"}, {**VALID, "key": "x" * 65}, {**VALID, "key": "a b c d e"}, {**VALID, "key": 1}),
        *({**VALID, "ticket": "0" * 31}, {**VALID, "ticket": "G" * 32}, {**VALID, "guideline_version": 0}),
        {**VALID, "note": "x" * 4001},
    ],
    ids=repr,
)
def test_what_is_no_vote_is_refused(ann: Browser, project: Project, body: Any) -> None:
    answer = ann.post("/api/votes", body) if body is not None else ann.post("/api/votes", "null")
    assert (answer.status_code, code_of(answer)) == (422, "invalid")
    assert events(project) == []


def test_a_refusal_does_not_send_back_what_was_sent(ann: Browser) -> None:
    assert "TOKEN" not in ann.post("/api/session", {"token": "TOKEN" * 50}).text


def test_a_strange_note_does_not_lose_the_vote(ann: Browser, project: Project) -> None:
    """Databases and UTF-8 cannot hold these; JSON can."""
    assert ann.vote(ann.work()[0], note="a\0b\ud800c\u202e" + "x" * 3994).status_code == 200
    assert events(project)[0].note == "a\ufffdb\ufffdc\u202e" + "x" * 3994


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (DiskFull("/home/secret", code="disk_full"), 507, "disk_full"),
        (RunError("/home/secret", code="busy"), 503, "busy"),
        (RunError("/home/secret", code="unreachable"), 503, "unreachable"),
        (RunError("/home/secret", code="other"), 500, "internal"),
        (DataError("/home/secret", code="damaged", key="database"), 500, "internal"),
        (ConfigError("wrong", code="unknown_name", key="x"), 400, "unknown_name"),
    ],
)
def test_errors_of_the_store_become_answers(
    ann: Browser, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, code: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("tiltlm.labeling.web.api.vote", fail)
    answer = ann.post("/api/votes", VALID)
    assert (answer.status_code, code_of(answer)) == (status, code)
    assert ("retry-after" in answer.headers) == (status == 503)
    assert "/home/secret" not in answer.text


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/api/nothing", 404, "not_found"),
        ("GET", "/api/votes", 405, "not_allowed"),
        ("GET", "/static/../app.py", 404, "not_found"),
        ("GET", "/static/%2e%2e/app.py", 404, "not_found"),
        ("TRACE", "/", 403, "cross_site"),
    ],
)
def test_what_is_not_there(ann: Browser, method: str, path: str, status: int, code: str) -> None:
    answer = ann.client.request(method, path)
    assert (answer.status_code, code_of(answer)) == (status, code)


def test_a_browser_gets_errors_as_pages(app: FastAPI) -> None:
    answer = open_browser(app).client.get("/<b>nowhere", headers={"Accept": "text/html,*/*"})
    assert answer.status_code == 404
    assert answer.headers["content-type"].startswith("text/html")
    assert "<h1>404</h1>" in answer.text


def test_the_shells_are_the_same_for_everybody(app: FastAPI, ann: Browser) -> None:
    stranger = open_browser(app)
    for path in ("/", "/join"):
        assert ann.get(path).text == stranger.get(path).text
