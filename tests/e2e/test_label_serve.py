"""`tiltlm label serve` as its users run it: a process, links over HTTP, signals, and going on."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

import tiltlm
from support.errors import raises
from tiltlm.core import ConfigError

PAIRS = [
    {"id": f"r{k}", "prompt": f"Question {k}?", "chosen": f"A good answer {k}.", "rejected": f"Something else, {k}!"}
    for k in range(6)
]


@dataclass
class App:
    """An app that runs."""

    links: dict[str, str]
    errors: Path
    process: subprocess.Popen


@pytest.fixture
def pairs(tmp_path) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    return path


@contextmanager
def serving(folder: Path, *arguments: str, stop: int = signal.SIGINT) -> Iterator[App]:
    """Start the command, give its links to the block, then send the signal and wait."""
    command = [sys.executable, "-m", "tiltlm", "label", "serve", *arguments, "--port", "0"]
    out, errors = folder / "out.txt", folder / "err.txt"
    with out.open("w") as stdout, errors.open("w") as stderr:
        process = subprocess.Popen(command, cwd=folder, stdout=stdout, stderr=stderr, env=os.environ)
    try:
        while "the app is ready" not in errors.read_text():
            assert process.poll() is None, errors.read_text()
            time.sleep(0.05)
        lines = [line.split("  ") for line in out.read_text().splitlines()]
        yield App(dict(lines), errors, process)
    finally:
        if process.poll() is None:
            process.send_signal(stop)
        process.wait(30)


@contextmanager
def client_of(link: str) -> Iterator[httpx.Client]:
    """Give a client to the block that is signed in, as a browser with this link is."""
    base, _, token = link.partition("/join#")
    with httpx.Client(base_url=base, headers={"Origin": base, "Sec-Fetch-Site": "same-origin"}) as client:
        assert client.post("/api/session", json={"token": token}).status_code == 200
        yield client


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


def test_from_a_file_to_labels(pairs, tmp_path):
    """The links work, votes are kept over a stop, the same command goes on, and the labels are those of the votes."""
    with serving(tmp_path, "pairs.jsonl", "--names", "ann,bob", "--repeat-share", "0") as app:
        assert list(app.links) == ["owner", "ann", "bob"]
        with client_of(app.links["ann"]) as ann:
            assert vote_on_all(ann) == 6
    assert app.process.returncode == 130
    noted = app.errors.read_text()
    assert str(tmp_path / "label.db") in noted
    assert "about 0.1 hours of work" in noted
    with serving(tmp_path, "--names", "ann,bob,cho", stop=signal.SIGTERM) as again:
        assert list(again.links) == ["owner", "cho"]  # the others keep their links
        assert "ann has a link already" in again.errors.read_text()
        port = again.links["owner"].partition("/join")[0]
        bob = f"{port}/join#{app.links['bob'].partition('#')[2]}"
        with client_of(bob) as client:
            assert vote_on_all(client) == 6
        owner = httpx.get(again.links["owner"].partition("/join")[0] + "/admin", follow_redirects=False)
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
