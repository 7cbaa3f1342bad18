"""A finished run goes to the hub as one commit, private, and a failure changes nothing."""

import json
import time

import pytest

from support.errors import events, raises
from support.fake_hub import OLD_UPLOAD, TOKEN, hub_in_place
from support.run_folders import REPORT, make_run
from tiltlm.core import ConfigError, RunError
from tiltlm.distributed import position
from tiltlm.recipes.runs import publishing
from tiltlm.recipes.runs.publishing import check_publishing, publish

WEIGHTS = b"weights" * 1000


pytestmark = pytest.mark.filterwarnings(OLD_UPLOAD)


@pytest.fixture
def hub():
    with hub_in_place() as found:
        yield found


@pytest.fixture
def run(tmp_path):
    folder = make_run(tmp_path / "first", ending={"state": "finished"}, report=REPORT)
    (folder / "report.html").write_text("<p>It ranks better.</p>")
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    (folder / "model" / "README.md").write_text("---\nlibrary_name: transformers\n---\n\n# A run\n")
    (folder / "model" / "model.safetensors").write_bytes(WEIGHTS)
    return folder


def test_model_card_and_report_are_one_private_commit(hub, run, caplog):
    caplog.set_level("INFO")
    found = publish(run, "tilted")
    repository = hub.repositories["user/tilted"]
    assert repository.is_private
    assert len(repository.commits) == 1
    assert set(repository.files) == {
        "config.json", "README.md", "model.safetensors", "report.html", "report.json",
    }  # fmt: skip
    assert repository.files["model.safetensors"] == WEIGHTS
    assert json.loads(repository.files["report.json"])["verdict"]["word"] == "Yes"
    assert (found.name, found.is_private, found.exit_code) == ("user/tilted", True, 0)
    assert found.url.startswith(hub.url)
    (said,) = events(caplog, "uploading")
    assert said.files == sorted(repository.files)
    assert "report.html" in said.getMessage()


def test_the_report_can_be_left_out_and_a_new_repository_be_public(hub, run):
    found = publish(run, "user/open", public=True, with_report=False)
    assert set(hub.repositories["user/open"].files) == {"config.json", "README.md", "model.safetensors"}
    assert found.is_private is False


def test_a_repository_that_exists_keeps_its_visibility_and_loses_old_weights(hub, run):
    publish(run, "tilted")
    (run / "model" / "model.safetensors").rename(run / "model" / "model-00001-of-00001.safetensors")
    found = publish(run, "tilted", public=True)
    files = hub.repositories["user/tilted"].files
    assert "model.safetensors" not in files
    assert files["model-00001-of-00001.safetensors"] == WEIGHTS
    assert found.is_private


@pytest.mark.parametrize(
    ("name", "code", "prepare"),
    [
        ("a//b", "bad_name", lambda hub, patch: None),
        ("tilted", "no_login", lambda hub, patch: patch.setattr("huggingface_hub.get_token", lambda: None)),
        ("tilted", "offline", lambda hub, patch: patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)),
        ("tilted", "no_right", lambda hub, patch: patch.setenv("HF_TOKEN", "hf_unknown")),
        ("tilted", "no_right", lambda hub, patch: hub.tokens.update({TOKEN: set()})),
        ("others/tilted", "no_right", lambda hub, patch: None),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_uploaded(hub, run, monkeypatch, name, code, prepare):
    prepare(hub, monkeypatch)
    with raises(ConfigError, code, key="--push-to-hub"):
        check_publishing(name, "--push-to-hub")
    assert not hub.repositories
    assert not hub.objects


def test_a_repository_of_others_that_one_may_only_read_is_refused(hub):
    hub.tokens["hf_other"] = {"others"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", "hf_other")
        check_publishing("others/tilted", "NAME")
    with raises(ConfigError, "no_right", key="NAME"):
        check_publishing("others/tilted", "NAME")


@pytest.mark.parametrize("status", [500, 0])
def test_a_hub_that_fails_is_no_fault_of_the_setting(hub, status):
    hub.faults["GET /api/whoami"] = status
    with raises(RunError, "hub_failed", key="--push-to-hub"):
        check_publishing("tilted", "--push-to-hub")


@pytest.mark.parametrize(("request_", "status"), [("/commit/", 500), ("/commit/", 0), ("objects/batch", 403)])
def test_an_upload_that_fails_leaves_the_old_commit_and_can_be_repeated(hub, run, request_, status):
    publish(run, "tilted")
    (run / "model" / "config.json").write_text('{"changed": true}')
    (run / "model" / "model.safetensors").write_bytes(WEIGHTS * 2)
    hub.faults[request_] = status
    with raises(RunError, "push_failed", key="NAME", mentions=[f"tiltlm push {run} tilted"]):
        publish(run, "tilted")
    assert hub.repositories["user/tilted"].files["config.json"] == b"{}"
    hub.faults.clear()
    publish(run, "tilted")
    assert hub.repositories["user/tilted"].files["config.json"] == b'{"changed": true}'
    assert hub.repositories["user/tilted"].files["model.safetensors"] == WEIGHTS * 2


def test_a_long_upload_shows_the_other_processes_that_this_one_is_at_work(hub, run, monkeypatch):
    """The watchdog ends a run in which nothing moves, and the main thread only waits for the upload."""
    monkeypatch.setattr(position, "TICK", 0.01)
    ticks = []

    def slow(*_) -> tuple[str, bool]:
        ticks.append(position.HERE.ticks)
        time.sleep(0.3)
        ticks.append(position.HERE.ticks)
        return "url", True

    monkeypatch.setattr(publishing, "_commit", slow)
    publish(run, "tilted")
    assert ticks[1] > ticks[0] + 3


@pytest.mark.parametrize("state", ["failed", "stopped"])
def test_a_run_that_has_not_finished_is_refused(hub, run, state):
    (run / "ended.json").write_text(json.dumps({"state": state, "at": "", "message": "no"}))
    with raises(ConfigError, "not_finished", key="RUN"):
        publish(run, "tilted")
    assert not hub.requests


def test_a_folder_that_is_no_run_is_refused(hub, tmp_path):
    with raises(ConfigError, "no_run", key="RUN"):
        publish(tmp_path, "tilted")
