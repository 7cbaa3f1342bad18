"""`tiltlm label serve` as its users run it: a process, links over HTTP, signals, and going on."""

import json
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select

import tiltlm
from support.errors import raises
from support.label_commands import App, client_of, started
from tiltlm.core import ConfigError
from tiltlm.labeling.store.database import reading
from tiltlm.labeling.store.tables import pair, response
from tiltlm.recipes.answers.judged import Pairing
from tiltlm.recipes.labeling.pairs.requests import MarginSettings, PrepareRequest, SourceRequest
from tiltlm.recipes.labeling.preparing import prepare

PAIRS = [
    {"id": f"r{k}", "prompt": f"Question {k}?", "chosen": f"A good answer {k}.", "rejected": f"Something else, {k}!"}
    for k in range(6)
]


@pytest.fixture
def pairs(tmp_path) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    return path


@contextmanager
def serving(folder: Path, *arguments: str, stop: int = signal.SIGINT) -> Iterator[App]:
    """Start the command, give its links to the block, then send the signal and wait."""
    command = [sys.executable, "-m", "tiltlm", "label", "serve", *arguments, "--port", "0"]
    with started(command, folder) as app:
        yield app
        app.process.send_signal(stop)
        app.process.wait(30)


def vote_on_all(client: httpx.Client) -> int:
    """Vote for the good answers until nothing is left, and return how many votes there were."""
    items, count = client.post("/api/work", json={}).json()["items"], 0
    while items:
        item = items[0]
        choice = "left" if "good" in item["left"][0]["text"] else "right"
        body = {"ticket": item["ticket"], "key": f"request-{count}", "choice": choice}
        found = client.post("/api/votes", json=body)
        assert found.status_code == 200, found.text
        items, count = found.json()["items"], count + 1
    return count


@pytest.mark.slow
def test_from_a_file_to_labels(pairs, tmp_path):
    """The links work, votes are kept over a stop, the same command goes on, and the labels are those of the votes."""
    with serving(tmp_path, "pairs.jsonl", "--names", "ann,bob", "--repeat-share", "0") as app:
        links, noted = dict(app.links), app.errors.read_text()
        assert list(links) == ["owner", "ann", "bob"]
        with client_of(links["ann"]) as ann:
            assert vote_on_all(ann) == 6
    assert app.process.returncode == 130
    assert str(tmp_path / "label.db") in noted
    assert "about 0.1 hours of work" in noted
    assert len((tmp_path / "label.events.jsonl").read_text().splitlines()) == 6
    with serving(tmp_path, "--names", "ann,bob,cho", stop=signal.SIGTERM) as again:
        again_links = dict(again.links)
        assert list(again_links) == ["owner", "cho"]  # the others keep their links
        assert "ann has a link already" in again.errors.read_text()
        port = again_links["owner"].partition("/join")[0]
        bob = f"{port}/join#{links['bob'].partition('#')[2]}"
        with client_of(bob) as client:
            assert vote_on_all(client) == 6
        owner = httpx.get(again_links["owner"].partition("/join")[0] + "/admin", follow_redirects=False)
        assert owner.status_code in (302, 303, 307, 401), "signed out"
    assert again.process.returncode == 143
    found = tiltlm.label_export(tmp_path / "labels.jsonl", database=str(tmp_path / "label.db"))
    rows = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text().splitlines()]
    assert [row["chosen"] for row in rows] == [row["chosen"] for row in PAIRS]
    assert {row["preference"] for row in rows} == {1.0}
    assert found.account["labels"] == 6


def test_a_port_in_use_ends_before_anything_is_made(pairs, tmp_path):
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        with raises(ConfigError, "port_in_use", key="--port"):
            tiltlm.label_serve([pairs], database=str(tmp_path / "label.db"), port=port, progress=False)
    assert not (tmp_path / "label.db").exists()


def test_other_machines_need_an_address(pairs, tmp_path):
    given = {"database": str(tmp_path / "label.db"), "progress": False}
    with raises(ConfigError, "missing_setting", key="--address"):
        tiltlm.label_serve([pairs], host="0.0.0.0", **given)
    with raises(ConfigError, "bad_address", key="--address"):
        tiltlm.label_serve([pairs], address="label.example.org", **given)


def test_errors_before_anything_is_made(pairs, model, tmp_path):
    database = str(tmp_path / "label.db")

    def call(*sources, **given) -> None:
        tiltlm.label_serve(sources, database=database, port=0, progress=False, **given)

    with raises(ConfigError, "missing_setting", key="prompts"):
        call(model)
    with raises(ConfigError, "no_effect", key="--n"):
        call(pairs, n=4)
    with raises(ConfigError, "no_effect", key="--comparisons"):
        call(pairs, comparisons="all")
    with raises(ConfigError, "no_effect", key="--calibration"):
        call(pairs, calibration=2)
    with raises(ConfigError, "missing_setting", key="--model"):
        call(pairs, select="uncertain")
    with raises(ConfigError, "no_effect", key="--model"):
        call(pairs, model=model)
    with raises(ConfigError, "not_in_range", key="--overlap"):
        call(pairs, overlap=0)
    with raises(ConfigError, "not_readable", key="--guidelines"):
        call(pairs, guidelines=tmp_path / "none.md")
    with raises(ConfigError, "bad_name", key="NAME"):
        call(pairs, names="a\u202eb")
    assert not Path(database).exists()


@pytest.mark.slow
def test_pairs_of_models_whose_margin_is_least_come_first(model, prompts, tmp_path):
    """Two models answer prompts; a policy that is its own reference finds every margin 0."""
    found = SourceRequest((f"a={model}", f"b={model}"), prompts=str(prompts), n=1, max_new_tokens=32, limit=6)
    margins = MarginSettings(model, model)
    request = PrepareRequest(str(tmp_path / "label.db"), found, {"select": "uncertain"}, margins=margins, keep_all=True)
    with prepare(request) as project, reading(project.engine) as connection:
        rows = connection.execute(select(pair.c.priority)).scalars().all()
        names = set(connection.execute(select(response.c.model)).scalars())
    assert 0 < len(rows) <= 6
    assert set(rows) == {0.0}
    assert names == {"a", "b"}
    drawn = sorted((tmp_path / "label.answers").iterdir())
    assert [file.name for file in drawn] == ["a.jsonl", "b.jsonl"]
    before = [file.read_bytes() for file in drawn]
    with prepare(request) as project, reading(project.engine) as connection:  # nothing is drawn or asked again
        assert len(connection.execute(select(pair.c.id)).all()) == len(rows)
    assert [file.read_bytes() for file in drawn] == before


def test_pairs_of_one_model(model, prompts, tmp_path):
    one_each = Pairing.of("random:1")
    found = SourceRequest((model,), prompts=str(prompts), n=3, max_new_tokens=24, limit=4, comparisons=one_each)
    request = PrepareRequest(str(tmp_path / "label.db"), found, keep_all=True)
    with prepare(request) as project, reading(project.engine) as connection:
        rows = connection.execute(select(response.c.model, response.c.sampling)).all()
        assert len(connection.execute(select(pair.c.id)).all()) == 4
    assert {json.loads(sampling)["temperature"] for _, sampling in rows} == {1.0}
    assert {"seed", "index", "model_digest"} <= set(json.loads(rows[0].sampling))
