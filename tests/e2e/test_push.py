"""`--push-to-hub`: refused before training, uploaded after it, and a failed upload loses nothing."""

import pytest
from typer.testing import CliRunner

from support.errors import raises
from support.fake_hub import OLD_UPLOAD, TOKEN, hub_in_place
from tiltlm.cli.main import app
from tiltlm.core import ConfigError

pytestmark = pytest.mark.filterwarnings(OLD_UPLOAD)


@pytest.fixture
def hub():
    with hub_in_place() as found:
        yield found


@pytest.fixture
def short(data):
    return {"data": data, "objective": "dpo", "max_steps": 1, "eval_fraction": 0.25}


def test_a_run_is_uploaded_and_what_is_there_can_be_loaded(hub, train, short, tmp_path):
    run = train(tmp_path / "run", push_to_hub="tilted", **short)
    assert run.published.url
    assert run.exit_code == 0
    files = hub.repositories["user/tilted"].files
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json", "report.html", "report.json"} <= set(
        files
    )
    for name, content in files.items():
        folder = run.path if name.startswith("report.") else run.path / "model"
        assert content == (folder / name).read_bytes()
    assert run.published.url in run.summary()


def test_training_does_not_start_where_the_upload_cannot_work(hub, train, short, tmp_path, monkeypatch):
    monkeypatch.setattr("tiltlm.recipes.train.train", lambda *_, **__: pytest.fail("it was started"))
    hub.tokens[TOKEN] = set()
    with raises(ConfigError, "no_right", key="--push-to-hub"):
        train(tmp_path / "run", push_to_hub="tilted", **short)
    assert not (tmp_path / "run").exists()


def test_a_failed_upload_keeps_the_run_and_says_how_to_repeat_it(hub, model, short, tmp_path):
    hub.faults["/commit/"] = 500
    run = tmp_path / "run"
    short["evaluation.num_prompts"] = 0
    settings = [f"{key}={value}" for key, value in short.items() if key not in ("data", "objective")]
    options = ["--model", model, "--data", str(short["data"]), "--objective", "dpo", "--output", str(run)]
    done = CliRunner().invoke(app, ["train", *options, "--push-to-hub", "tilted", *settings])
    assert done.exit_code == 1
    assert f"tiltlm push {run} user/tilted" in done.stdout
    assert str(run / "report.html") in done.stdout
    assert (run / "model" / "model.safetensors").exists()
    hub.faults.clear()
    again = CliRunner().invoke(app, ["push", str(run), "user/tilted"])
    assert again.exit_code == 0, again.output
    assert hub.url in again.stdout
    assert "model.safetensors" in hub.repositories["user/tilted"].files
