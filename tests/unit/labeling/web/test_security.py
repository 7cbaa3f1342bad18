"""Who may do what, and how often."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import func, select, update

from support.labelling import HOST, Browser, invite, make_project, open_browser, plain_pairs
from tiltlm.labeling.store.database import reading, writing
from tiltlm.labeling.store.people import revoke
from tiltlm.labeling.store.projects import Project
from tiltlm.labeling.store.tables import assignment, event, session
from tiltlm.labeling.web.app import create_app
from tiltlm.labeling.web.security import COOKIE, WRITES


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = make_project(tmp_path / "label.db", plain_pairs(4), overlap=1)
    yield made
    made.engine.dispose()


@pytest.fixture
def app(project: Project) -> FastAPI:
    return create_app(project, hosts=[HOST])


def code_of(answer: Any) -> str:
    return str(answer.json()["error"]["code"])


CALLS = [
    ("GET", "/api/me", None),
    ("POST", "/api/work", {}),
    ("POST", "/api/votes", {"ticket": "0" * 32, "key": "key-00000000", "choice": "left"}),
    ("POST", "/api/undo", {"key": "key-00000000"}),
    ("GET", f"/api/items/{'0' * 32}/diff", None),
    ("DELETE", "/api/session", None),
]


def call(browser: Browser, method: str, path: str, body: Any) -> Any:
    if method == "POST":
        return browser.post(path, body)
    return browser.client.request(method, path, headers={"Sec-Fetch-Site": "same-origin"})


def assert_all_are_refused(browser: Browser, status: int, code: str, calls: list[Any] = CALLS) -> None:
    for method, path, body in calls:
        answer = call(browser, method, path, body)
        assert (answer.status_code, code_of(answer)) == (status, code), path
        assert answer.headers["cache-control"] == "no-store"


def test_without_a_session_nothing_is_told(app: FastAPI) -> None:
    assert_all_are_refused(open_browser(app), 401, "signed_out")


@pytest.mark.parametrize("cookie", ["", "x", "a" * 43, "'; drop table session; --", "a" * 4000])
def test_a_forged_session_opens_nothing(app: FastAPI, project: Project, cookie: str) -> None:
    open_browser(app, invite(project, "Ann"))
    browser = open_browser(app)
    browser.client.cookies.set(COOKIE, cookie)
    assert_all_are_refused(browser, 401, "signed_out")


def test_the_digest_of_a_session_opens_nothing(app: FastAPI, project: Project) -> None:
    """Who reads the database cannot use what is there."""
    open_browser(app, invite(project, "Ann"))
    with reading(project.engine) as connection:
        digest = connection.execute(select(session.c.sha256)).scalar_one()
    browser = open_browser(app)
    browser.client.cookies.set(COOKIE, digest)
    assert_all_are_refused(browser, 401, "signed_out")


def test_an_old_session_opens_nothing(app: FastAPI, project: Project) -> None:
    ann = open_browser(app, invite(project, "Ann"))
    with writing(project.engine) as connection:
        connection.execute(update(session).values(expires_at=1.0))
    assert_all_are_refused(ann, 401, "signed_out")


def test_a_revoked_person_is_out_at_once(app: FastAPI, project: Project) -> None:
    token = invite(project, "Ann")
    ann = open_browser(app, token)
    item = ann.work()[0]
    with writing(project.engine) as connection:
        revoke(connection, "Ann")
    assert code_of(ann.vote(item)) == "signed_out"
    assert_all_are_refused(ann, 401, "signed_out")
    again = ann.sign_in(token)
    assert (again.status_code, code_of(again)) == (401, "bad_token")
    assert num_events(project) == 0


def test_a_new_link_ends_the_old_one(app: FastAPI, project: Project) -> None:
    old = invite(project, "Ann")
    ann = open_browser(app, old)
    new = invite(project, "Ann")
    assert_all_are_refused(ann, 401, "signed_out")
    assert ann.sign_in(old).status_code == 401
    assert ann.sign_in(new).status_code == 200


def test_signing_out_ends_the_session_on_the_server(app: FastAPI, project: Project) -> None:
    ann = open_browser(app, invite(project, "Ann"))
    cookie = ann.client.cookies[COOKIE]
    assert call(ann, "DELETE", "/api/session", None).json() == {}
    assert COOKIE not in ann.client.cookies
    ann.client.cookies.set(COOKIE, cookie)
    assert_all_are_refused(ann, 401, "signed_out")


@pytest.mark.parametrize("role", ["adjudicator", "admin"])
def test_only_annotators_vote(app: FastAPI, project: Project, role: str) -> None:
    browser = open_browser(app, invite(project, "Eve", role))
    assert browser.get("/api/me").json()["role"] == role
    assert_all_are_refused(browser, 403, "forbidden", CALLS[1:5])


def num_events(project: Project) -> int:
    with reading(project.engine) as connection:
        return int(connection.execute(select(func.count()).select_from(event)).scalar_one())


def assignments(project: Project) -> list[Any]:
    with reading(project.engine) as connection:
        return list(connection.execute(select(assignment).order_by(assignment.c.ticket)))


def test_a_pair_of_somebody_else_is_out_of_reach(app: FastAPI, project: Project) -> None:
    ann, bob = (open_browser(app, invite(project, name)) for name in ("Ann", "Bob"))
    hers, _ = ann.work(), bob.work()
    before = assignments(project)
    answer = bob.vote(hers[0])
    assert (answer.status_code, code_of(answer)) == (409, "gone")
    assert not {"items", "progress", "feedback"} & set(answer.json())
    answer = bob.get(f"/api/items/{hers[0]['ticket']}/diff")
    assert (answer.status_code, code_of(answer)) == (404, "not_found")
    assert num_events(project) == 0
    assert assignments(project) == before


def test_a_vote_of_somebody_else_cannot_be_taken_back(app: FastAPI, project: Project) -> None:
    ann, bob = (open_browser(app, invite(project, name)) for name in ("Ann", "Bob"))
    key = ann.key()
    ann.post("/api/votes", {"ticket": ann.work()[0]["ticket"], "key": key, "choice": "left"})
    for used in (key, "other-key-1"):
        answer = bob.post("/api/undo", {"key": used})
        assert (answer.status_code, code_of(answer)) == (409, "nothing_to_undo")
    assert num_events(project) == 1


def test_a_key_names_one_request_of_one_person(app: FastAPI, project: Project) -> None:
    """Two people may use the same key, and neither sees the other's vote."""
    ann, bob = (open_browser(app, invite(project, name)) for name in ("Ann", "Bob"))
    for browser in (ann, bob):
        ticket = browser.work()[0]["ticket"]
        body = {"ticket": ticket, "key": "the-same-key", "choice": "left"}
        assert browser.post("/api/votes", body).status_code == 200
    assert num_events(project) == 2


def test_wrong_links_are_limited_by_address_and_right_ones_are_not(app: FastAPI, project: Project) -> None:
    token = invite(project, "Ann")
    for _ in range(40):
        assert open_browser(app).sign_in(token).status_code == 200
    browser = open_browser(app)
    for n in range(20):
        assert code_of(browser.sign_in(f"guess-{n}")) == "bad_token"
    answer = browser.sign_in("guess-20")
    assert (answer.status_code, code_of(answer)) == (429, "too_many")
    assert int(answer.headers["retry-after"]) > 0
    other = create_app(project, hosts=[HOST])
    assert open_browser(other).sign_in(token).status_code == 200, "counts belong to an app"


def test_writes_are_limited_by_session(app: FastAPI, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WRITES, "amount", 5)
    ann, bob = (open_browser(app, invite(project, name)) for name in ("Ann", "Bob"))
    for _ in range(5):
        ann.work()
    answer = ann.post("/api/work")
    assert (answer.status_code, code_of(answer)) == (429, "too_many")
    assert ann.get("/api/me").status_code == 200, "reading goes on"
    bob.work()


def test_the_limit_of_writes_lets_a_fast_person_work() -> None:
    assert WRITES.amount / WRITES.get_expiry() >= 5, "a second"
