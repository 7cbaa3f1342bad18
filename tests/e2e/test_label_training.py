"""From votes to a policy: training from the database, and from its export, is the same training."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import tiltlm
from support.errors import raises
from support.simulated_people import prefers, vote_all, wavering
from tiltlm.cli.main import app
from tiltlm.core import DataError
from tiltlm.labeling.project import ProjectSettings
from tiltlm.labeling.store.database import writing
from tiltlm.labeling.store.pairs import NewPair, add_pairs
from tiltlm.labeling.store.projects import create_project, open_project
from tiltlm.worlds import TextWorld

NAMES = ("ann", "bob", "cho")
WORLD = TextWorld()


@pytest.fixture(scope="module")
def database(some_pairs, tmp_path_factory) -> str:
    """Return a project with votes on all pairs, and gold and calibration beside them."""
    path = str(tmp_path_factory.mktemp("labels") / "label.db")
    settings = ProjectSettings(overlap=3, extra=0, gold_share=0.1, repeat_share=0.1, repeat_gap=5)
    rewards = {}
    with create_project(path, settings) as project:
        pairs = []
        for k, row in enumerate(some_pairs):
            kind, answer = ("task", None) if k > 4 else ("gold", "a") if k > 1 else ("calibration", "a")
            texts = row["chosen"], row["rejected"]
            rewards |= {text: WORLD.reward(row["prompt"], text) for text in texts}
            more = {"kind": kind, "answer": answer, "key": f"{k:03d}", "models": ("kind", "rude")}
            pairs.append(NewPair(row["prompt"], *texts, **more))
        with writing(project.engine) as connection:
            add_pairs(connection, project.settings, pairs)
        vote_all(project, NAMES, wavering(rewards.__getitem__, 0.25))
    return path


GIVEN = {"objective": "cdpo", "num_epochs": 1, "batch_size": 8, "eval_fraction": 0.25, "learning_rate": 1e-3}


@pytest.mark.slow
def test_training_from_the_database_is_training_from_its_export(train, database, tmp_path):
    output = tmp_path / "labels.jsonl"
    found = CliRunner().invoke(app, ["label", "export", str(output), "--database", database], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    assert len(output.read_text().splitlines()) == 43
    direct = train(tmp_path / "direct", data=database, **GIVEN)
    by_file = train(tmp_path / "file", data=str(output), **GIVEN)
    weights = [run.path / "model" / "model.safetensors" for run in (direct, by_file)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_gold_and_calibration_are_never_trained_on(database):
    rows = tiltlm.preview(model=str(WORLD.model_path()), data=database, objective="dpo", rows=100)
    assert len(rows) == 43


@pytest.mark.slow
def test_commands_about_data_read_the_database(database, tmp_path):
    runs = {
        "check": [database],
        "stats": [database],
        "agreement": [database],
        "convert": [database, str(tmp_path / "rows.jsonl"), "--to", "tiltlm", "--lossy"],
        "split": [database, "--output", str(tmp_path / "parts"), "--test", "0.2"],
    }
    for name, arguments in runs.items():
        found = CliRunner().invoke(app, [name, *arguments], catch_exceptions=False)
        assert found.exit_code in (0, 1), (name, found.output)  # check finds things in it
    assert (tmp_path / "rows.jsonl").exists()
    found = CliRunner().invoke(app, ["agreement", database, "--json"], catch_exceptions=False)
    plain = json.loads(found.stdout)
    assert [one["annotator"] for one in plain["annotators"]] == list(NAMES)
    assert plain["num_items"] == 43
    assert plain["consistency"] is not None


def test_a_new_vote_changes_what_is_trained_on(train, database, tmp_path):
    copy = tmp_path / "label.db"
    found = CliRunner().invoke(app, ["label", "backup", str(copy), "--database", database], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    assert tiltlm.stats(data=database, progress=False) is not None
    policy = tiltlm.load_policy(str(WORLD.model_path()))
    first = tiltlm.load_data(str(copy), policy)
    new = NewPair("Guest Ada: Where is my hat?\nDesk:", " Good morning Ada!", " In the hall.", key="z")
    with open_project(str(copy)) as project, writing(project.engine) as connection:
        add_pairs(connection, project.settings, [new])
    with open_project(str(copy)) as project:
        again = tiltlm.load_data(str(copy), policy)
        vote_all(project, ("ann",), prefers(len))
    changed = tiltlm.load_data(str(copy), policy)
    assert first.fingerprint == again.fingerprint != changed.fingerprint


def test_a_project_without_votes(tmp_path):
    create_project(str(tmp_path / "label.db"), ProjectSettings()).close()
    with raises(DataError, "no_votes", mentions=["label serve"]):
        tiltlm.stats(data=str(tmp_path / "label.db"), progress=False)
    assert Path(tmp_path / "label.db").exists()
