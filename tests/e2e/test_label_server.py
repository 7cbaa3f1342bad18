"""The labelling app as a process: many people at once, power cuts, a full disk, strangers."""

import itertools
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from support.label_server import ServerProcess, browse
from support.labelling import Browser, invite, make_project, plain_pairs
from tiltlm.labeling.store.database import reading, writing
from tiltlm.labeling.store.people import revoke
from tiltlm.labeling.store.projects import Project
from tiltlm.labeling.store.tables import assignment, event, pair

NUM_PEOPLE, NUM_VOTES, OVERLAP = 10, 90, 3


def rows(project: Project, *columns: Any) -> list[Any]:
    with reading(project.engine) as connection:
        return list(connection.execute(select(*columns)))


@pytest.fixture
def closed() -> Iterator[list[Project]]:
    """Projects that a test opens beside the server; closed at the end."""
    made: list[Project] = []
    yield made
    for project in made:
        project.engine.dispose()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def vote_to_the_end(address: str, token: str) -> Counter[int]:
    """Vote until nothing is left for this person."""
    statuses: Counter[int] = Counter()
    with browse(address, token) as ann:
        items = ann.work()
        while items:
            answer = ann.vote(items[0])
            statuses[answer.status_code] += 1
            items = answer.json()["items"]
    return statuses


@pytest.mark.slow
def test_ten_people_at_once_lose_nothing_and_overlap_is_exact(tmp_path: Path, closed: list[Project]) -> None:
    """900 votes by ten processes; near the end they race for the last seats of the last pairs."""
    num_pairs = NUM_PEOPLE * NUM_VOTES // OVERLAP
    project = make_project(tmp_path / "label.db", plain_pairs(num_pairs), overlap=OVERLAP, extra=0)
    closed.append(project)
    tokens = [invite(project, f"person-{n}") for n in range(NUM_PEOPLE)]
    with ServerProcess(str(tmp_path / "label.db")) as server:
        with ProcessPoolExecutor(NUM_PEOPLE, mp_context=get_context("spawn")) as pool:
            statuses = sum(pool.map(vote_to_the_end, itertools.repeat(server.address), tokens), Counter[int]())
        assert server.stop() == 128 + signal.SIGTERM
    assert statuses == {200: NUM_PEOPLE * NUM_VOTES}
    votes = rows(project, event.c.pair_id, event.c.person_id)
    assert len(set(votes)) == len(votes) == NUM_PEOPLE * NUM_VOTES
    assert set(Counter(pair_id for pair_id, _ in votes).values()) == {OVERLAP}
    counts = rows(project, pair.c.assigned, pair.c.votes_a + pair.c.votes_b)
    assert set(counts) == {(OVERLAP, OVERLAP)}


@pytest.mark.slow
def test_a_power_cut_loses_no_vote_and_a_retry_makes_no_second_one(
    tmp_path: Path, closed: list[Project], stack: ExitStack
) -> None:
    """The server is killed at several moments of a vote; each vote is sent until it has an answer."""
    database = str(tmp_path / "label.db")
    project = make_project(database, plain_pairs(200), overlap=1)
    closed.append(project)
    token = invite(project, "Ann")
    server = stack.enter_context(ServerProcess(database))
    ann = stack.enter_context(browse(server.address, token))
    items, sent, num_cuts = ann.work(), [], 0
    for n in range(25):
        body = {"ticket": items[0]["ticket"], "key": f"vote-{n:04d}", "choice": "left", "note": str(n)}
        cut = None
        if n % 5 == 2:
            cut = threading.Timer(0.003 * num_cuts, server.kill)
            cut.start()
        answer = try_to_vote(ann, body)
        if cut is not None:
            cut.join()
            num_cuts += 1
            server = stack.enter_context(ServerProcess(database, port=server.port))
            again = try_to_vote(ann, body)
            assert again is not None
            assert again.status_code == 200
            if answer is not None:
                assert answer.json()["feedback"] == again.json()["feedback"]
            answer = again
        assert answer is not None
        sent.append(body)
        items = answer.json()["items"]
    assert num_cuts == 5
    found = rows(project, event.c.key, event.c.note, event.c.kind)
    assert sorted(found) == sorted((body["key"], body["note"], "vote") for body in sent)
    counts = rows(project, pair.c.votes_a + pair.c.votes_b, pair.c.assigned)
    assert Counter(num for num, _ in counts) == {1: 25, 0: 175}


def try_to_vote(browser: Browser, body: dict[str, Any]) -> httpx.Response | None:
    """Return the answer, or None if there is none."""
    try:
        return browser.post("/api/votes", body)
    except httpx.TransportError:
        return None


def test_a_full_disk_keeps_no_half_vote_and_then_goes_on(tmp_path: Path, closed: list[Project]) -> None:
    database = tmp_path / "label.db"
    project = make_project(database, plain_pairs(400), overlap=1)
    closed.append(project)
    token = invite(project, "Ann")
    most_bytes = max(path.stat().st_size for path in tmp_path.iterdir()) + 200_000
    with ServerProcess(str(database), most_bytes=most_bytes) as server, browse(server.address, token) as ann:
        items, kept = ann.work(), []
        for n in range(400):
            body = {"ticket": items[0]["ticket"], "key": f"vote-{n:04d}", "choice": "left", "note": "x" * 4000}
            answer = ann.post("/api/votes", body)
            if answer.status_code != 200:
                break
            kept.append(body["key"])
            items = answer.json()["items"]
        assert (answer.status_code, answer.json()["error"]["code"]) == (507, "disk_full")
        assert str(tmp_path) not in answer.text
        assert ann.get("/api/me").status_code == 200, "reading goes on"
        assert ann.post("/api/votes", body).status_code == 507
    assert [row[0] for row in rows(project, event.c.key)] == kept
    assert sum(row[0] for row in rows(project, pair.c.votes_a + pair.c.votes_b)) == len(kept)
    with ServerProcess(str(database)) as server, browse(server.address, token) as ann:  # there is space again
        assert ann.post("/api/votes", body).status_code == 200
    assert [row[0] for row in rows(project, event.c.key)] == [*kept, body["key"]]


def test_strangers_change_nothing(tmp_path: Path, closed: list[Project]) -> None:
    database = str(tmp_path / "label.db")
    project = make_project(database, plain_pairs(5), overlap=1)
    closed.append(project)
    tokens = {name: invite(project, name) for name in ("Ann", "Bob")}
    with ServerProcess(database) as server, ExitStack() as stack:
        ann, bob = (stack.enter_context(browse(server.address, tokens[name])) for name in ("Ann", "Bob"))
        item = ann.work()[0]
        before = state(project)
        vote = {"ticket": item["ticket"], "key": "from-elsewhere", "choice": "right"}

        cookie = {"Cookie": "; ".join(f"{name}={value}" for name, value in ann.client.cookies.items())}
        for headers in (
            {"Origin": "https://evil.test", "Sec-Fetch-Site": "cross-site", "Content-Type": "text/plain"},
            {"Origin": "https://evil.test"},
            {"Content-Type": "application/x-www-form-urlencoded"},
        ):
            answer = httpx.post(
                f"{server.address}/api/votes", json=vote, headers={**headers, **cookie}, trust_env=False
            )
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "cross_site")
        answer = httpx.get(f"{server.address}/api/me", headers={**cookie, "Host": "rebound.test"}, trust_env=False)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unknown_host")

        stranger = stack.enter_context(browse(server.address))
        for token in ("x", tokens["Ann"][:-1], tokens["Ann"].swapcase(), tokens["Ann"] + "x"):
            answer = stranger.sign_in(token)
            assert answer.status_code == 401
            assert "set-cookie" not in answer.headers
        assert stranger.post("/api/votes", vote).status_code == 401

        assert bob.post("/api/votes", vote).status_code == 409
        with writing(project.engine) as connection:
            revoke(connection, "Bob")
        assert bob.post("/api/work").status_code == 401
        assert bob.sign_in(tokens["Bob"]).status_code == 401
        assert state(project) == before
        assert ann.post("/api/votes", vote).status_code == 200
        assert server.stop(signal.SIGINT) == 128 + signal.SIGINT


def state(project: Project) -> list[Any]:
    """Return all that votes change."""
    ann = select(assignment.c.ticket, assignment.c.event_id).where(assignment.c.person_id == 1)
    with reading(project.engine) as connection:
        return [
            *connection.execute(select(event)),
            *connection.execute(ann),
            *connection.execute(select(pair.c.votes_a)),
        ]
