"""People as a judge from end to end: comparisons, judged data and loops whose verdicts are simulated people's votes."""

import json
import signal
import sys
import threading
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import select
from typer.testing import CliRunner

import tiltlm
from support.errors import raises
from support.label_commands import client_of, started
from support.open_connections import closing_connections
from support.simulated_people import prefers, vote_all, wavering
from tiltlm.cli.main import app
from tiltlm.core import RunError
from tiltlm.labeling.store.projects import has_project, open_project
from tiltlm.labeling.store.tables import response
from tiltlm.worlds import TextWorld

pytestmark = pytest.mark.usefixtures("blank_figures", "own_cache", "closed_connections")

WORLD = TextWorld()
NAMES = ("ann", "bob", "cho")


@pytest.fixture
def closed_connections():
    with closing_connections():
        yield


@pytest.fixture
def database(tmp_path) -> str:
    return str(tmp_path / "label.db")


def kinder(text: str) -> int:
    """Return how often a reply says something kind: what the simulated people prefer."""
    return sum(word in text for word in ("Good", "please", "glad", "!", "happy"))


def vote(database, decide) -> int:
    with open_project(database) as project:
        return vote_all(project, NAMES, decide)


def test_a_comparison_by_people_is_that_of_a_judge_who_thinks_alike(model, prompts, tmp_path, database):
    """People prefer the longer answer, as the judge `length` does; the report has the same win rate."""
    answers = [tmp_path / f"{name}.jsonl" for name in ("a", "b")]
    for seed, path in enumerate(answers):
        tiltlm.sample(model, str(prompts), n=1, max_new_tokens=12, limit=10, seed=seed, output=path, progress=False)
    judge = f"{{kind: people, database: {database}, votes: 3, wait: stop}}"
    command = ["compare", *map(str, answers), "--judge", judge, "--output", str(tmp_path / "people")]
    asked = CliRunner().invoke(app, command)
    assert isinstance(asked.exception, RunError)
    assert asked.exception.code == "waiting_for_people"
    vote(database, prefers(len))
    done = CliRunner().invoke(app, [*command, "--overwrite"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    tiltlm.compare(answers, judge="length", output=tmp_path / "length", progress=False)
    by_people = json.loads((tmp_path / "people" / "compare.json").read_text())
    by_length = json.loads((tmp_path / "length" / "compare.json").read_text())
    assert by_people["judge"] == "people"
    rates = [found["pairs"][0]["win_rate"]["rate"] for found in (by_people, by_length)]
    for name in ("estimate", "low", "high"):
        assert rates[0][name] == pytest.approx(rates[1][name], abs=1e-8)  # logits of certain votes are finite
    with open_project(database) as project, project.engine.connect() as connection:
        assert {name for (name,) in connection.execute(select(response.c.model))} == {"a", "b"}


@pytest.mark.slow
def test_the_app_that_a_comparison_serves(tmp_path):
    """Ctrl-C keeps the votes; the same command goes on with the links that people have, reports and ends with 0."""
    for name, text in (("a", "a short answer"), ("b", "an answer that is longer")):
        rows = [{"id": str(k), "prompt": f"Question {k}?", "completions": [f"{text} {k}"]} for k in range(3)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judge = "{kind: people, database: label.db, votes: 1, names: [ann], port: 0}"
    command = [sys.executable, "-m", "tiltlm", "compare", "a.jsonl", "b.jsonl", "--judge", judge, "--output", "out"]
    with started(command, tmp_path) as first:
        (owner, ann) = first.links
        assert (owner[0], ann[0]) == ("owner", "ann")
        with client_of(ann[1]) as client:
            assert vote_longer(client, most=2) == 2
        first.process.send_signal(signal.SIGINT)
        assert first.process.wait(60) == 130
    with started([*command, "--overwrite"], tmp_path) as second:
        assert [name for name, _ in second.links] == ["owner"]
        base = second.links[0][1].partition("/join#")[0]
        with client_of(f"{base}/join#{ann[1].partition('#')[2]}") as client:
            assert vote_longer(client, most=2) == 1
        assert second.process.wait(60) == 0
    found = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert found["pairs"][0]["win_rate"]["rate"]["estimate"] == pytest.approx(0.0, abs=1e-8)
    journal = [json.loads(line) for line in (tmp_path / "label.events.jsonl").read_text().splitlines()]
    assert [line["person"] for line in journal] == ["ann"] * 3


def vote_longer(client, most: int) -> int:
    """Vote for the longer answers, at most so many times, and return the number of votes."""
    count = 0
    while count < most and (items := client.post("/api/work", json={}).json()["items"]):
        left, right = (len(items[0][side][0]["text"]) for side in ("left", "right"))
        choice = "left" if left > right else "right"
        body = {"ticket": items[0]["ticket"], "key": uuid4().hex, "choice": choice}
        assert client.post("/api/votes", json=body).status_code == 200
        count += 1
    return count


def test_data_is_judged_by_people(some_pairs, tmp_path, database):
    judge = {"kind": "people", "database": database, "votes": 3, "wait": "stop"}
    given = {"data": some_pairs[:6], "judge": judge, "output": tmp_path / "judged.jsonl", "progress": False}
    with raises(RunError, "waiting_for_people"):
        tiltlm.judge(**given)
    vote(database, wavering(kinder, 0.3))
    judged = tiltlm.judge(**given)
    assert "error" not in judged.counts
    shares = {round(row["preference"], 6) for row in judged.rows}
    assert shares <= {0.0, round(1 / 3, 6), 0.5, round(2 / 3, 6), 1.0}


SHORT = {
    "preset": "online_dpo", "loop.rounds": 2, "loop.prompts_per_round": 4, "max_new_tokens": 16, "max_rows": 8,
    "batch_size": 4, "learning_rate": 1e-3, "progress": False,
}  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    files = [*folder.glob("rounds/*/*"), folder / "model" / "model.safetensors", folder / "loop.json"]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files if not file.name.startswith(".")}


@pytest.mark.slow
def test_a_loop_that_waits_for_people_gives_the_bytes_of_one_whose_votes_were_there(model, tmp_path, monkeypatch):
    monkeypatch.setattr("tiltlm.recipes.labeling.people.SECONDS", 0.05)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in WORLD.prompts("train")[:8]))
    (tmp_path / "stopped").mkdir(), (tmp_path / "waited").mkdir()
    decide = prefers(lambda text: (kinder(text), len(text)))

    def loop(place: str, wait: str, **more):
        judge = {"kind": "people", "database": str(tmp_path / place / "label.db"), "votes": 3, "wait": wait}
        output = tmp_path / place / "run"
        return tiltlm.loop(model=model, data=str(prompts), judge=judge, output=output, **SHORT, **more)

    with raises(RunError, "waiting_for_people"):
        loop("stopped", "stop")
    drawn = tmp_path / "stopped" / "run" / "rounds" / "0000" / "samples.jsonl.gz"
    before = drawn.read_bytes()
    assert [path.name for path in drawn.parent.iterdir()] == ["samples.jsonl.gz"], "the round stays drawn"
    with raises(RunError, "waiting_for_people"):
        loop("stopped", "stop", resume=True)
    vote(str(tmp_path / "stopped" / "label.db"), decide)
    with raises(RunError, "waiting_for_people"):
        loop("stopped", "stop", resume=True)  # round 0 is done, round 1 waits
    vote(str(tmp_path / "stopped" / "label.db"), decide)
    stopped = loop("stopped", "stop", resume=True)
    assert len(stopped.cards) == 2
    assert drawn.read_bytes() == before

    database, ended = str(tmp_path / "waited" / "label.db"), threading.Event()

    def people() -> None:
        while not ended.wait(0.1):
            if has_project(database):
                vote(database, decide)

    thread = threading.Thread(target=people)
    thread.start()
    try:
        waited = loop("waited", "poll")
    finally:
        ended.set()
        thread.join()
    assert contents(waited.path) == contents(stopped.path)
