"""The interface between browser and server, call by call."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI

from support.labelling import HOST, Browser, invite, make_project, open_browser, plain_pairs
from tiltlm.labeling.store.projects import Project
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


def test_what_a_page_needs_once(ann: Browser) -> None:
    answer = ann.get("/api/me").json()
    assert {name: answer[name] for name in ("name", "role", "title", "ties", "strength")} == {
        "name": "Ann",
        "role": "annotator",
        "title": "Which one?",
        "ties": True,
        "strength": True,
    }
    assert answer["guidelines"]["version"] == 1
    assert "<li>" in answer["guidelines"]["html"]


def test_a_vote_brings_the_next_pair(ann: Browser) -> None:
    first, second = ann.work()
    assert [turn["role"] for turn in first["prompt"]] == ["user"]
    answer = ann.vote(first, "right", strength=2, note="shorter").json()
    assert answer["items"][0] == second
    assert len(answer["items"]) == 2
    assert answer["progress"] == {"done": 1, "left": 5, "calibration_left": 0}
    assert answer["feedback"] is None
