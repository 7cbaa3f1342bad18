"""Runs on models and data sets of the hub: their commits are recorded, and a hub that is gone costs seconds."""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
from huggingface_hub import constants

import tiltlm
from support.errors import events, raises
from support.hub import COMMIT, fake_model, silent_server, unset_hub
from tiltlm.core import DataError, ModelError
from tiltlm.storage import hub

pytestmark = pytest.mark.usefixtures("blank_figures")
LATER = "f" * 40


@pytest.fixture
def home(tmp_path, monkeypatch, model):
    """Return the folder of caches with one model; the hub does not answer."""
    unset_hub(monkeypatch, tmp_path)
    monkeypatch.setattr(hub, "_ask", lambda: "no network")
    fake_model(tmp_path, "owner/tiny", Path(model))
    return tmp_path


@pytest.mark.slow
def test_a_run_records_the_commit_and_goes_on_with_it(home, data, tmp_path, caplog):
    """Also after the branch has moved to other weights."""
    given = {"model": "owner/tiny", "data": data, "objective": "dpo", "output": tmp_path / "run", "eval_fraction": 0}
    caplog.set_level(logging.INFO)
    run = tiltlm.train(**given, max_steps=1)
    assert events(caplog, "hub_offline")[0].repository == "owner/tiny"
    recorded = json.loads((run.path / "commits.json").read_text())
    assert recorded == {"model": {"path": "owner/tiny", "revision": None, "commit": COMMIT}, "data": {}}
    assert [COMMIT in note for note in run.report.notes if note.code == "commit"] == [True]
    broken = home / "hub" / "models--owner--tiny" / "snapshots" / LATER
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    (home / "hub" / "models--owner--tiny" / "refs" / "main").write_text(LATER)
    hub._resolve.cache_clear()
    with raises(ModelError, "model_not_readable", key="model.path"):
        tiltlm.load_policy("owner/tiny")
    again = tiltlm.train(**given, max_steps=1, resume=True)
    assert events(caplog, "recorded_commits")
    assert again.path == run.path
    assert json.loads((run.path / "commits.json").read_text()) == recorded


def test_a_commit_that_is_not_in_the_cache(home):
    with raises(ModelError, "model_not_readable", key="model.path", mentions=["owner/tiny", LATER]):
        tiltlm.load_policy("owner/tiny", revision=LATER)
    with raises(ModelError, "not_reachable", key="model.path", mentions=["owner/other", "no network"]):
        tiltlm.load_policy("owner/other")


def prepared_dataset(home, name, rows, commit):
    """Write a data set as `datasets` leaves it after it was loaded once."""
    folder = home / "datasets" / name.replace("/", "___") / "default" / "0.0.0" / commit
    folder.mkdir(parents=True)
    found = datasets.Dataset.from_list(rows)
    with datasets.arrow_writer.ArrowWriter(path=str(folder / f"{name.split('/')[1]}-train.arrow")) as writer:
        writer.write_table(found.data.table)
        num_rows, num_bytes = writer.finalize()
    split = datasets.SplitInfo("train", num_bytes=num_bytes, num_examples=num_rows, dataset_name=name.split("/")[1])
    datasets.DatasetInfo(
        features=found.features,
        splits=datasets.SplitDict({"train": split}),
        dataset_name=name.split("/")[1],
        config_name="default",
        version="0.0.0",
        builder_name="parquet",
    ).write_to_directory(str(folder))


def test_a_data_set_of_the_cache(home, some_pairs):
    prepared_dataset(home, "owner/pairs", some_pairs, COMMIT)
    policy = tiltlm.load_policy("owner/tiny")
    found = tiltlm.load_data("owner/pairs", policy, objective="dpo")
    assert len(found.train) + len(found.held_out) == len(some_pairs)
    assert found.commits == {"owner/pairs": COMMIT}
    assert [COMMIT in note for note in found.notes if note.code == "commit"] == [True]
    with raises(DataError, "other_revision", key="data.revision", mentions=[COMMIT, LATER]):
        tiltlm.load_data("owner/pairs", policy, objective="dpo", revision=LATER)
    with raises(DataError, "not_reachable", mentions=["owner/others", "no network"]):
        tiltlm.load_data("owner/others", policy, objective="dpo")


def preview(home: Path, data: Path, model: str, *before: str, **variables: str) -> tuple[int, str]:
    """Run the command in another process that is not told to work offline; return its exit code and stderr."""
    environment = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE" and "proxy" not in k.lower()}
    environment |= {"HF_HOME": str(home), "TILTLM_CACHE": str(home / "cache"), **variables}
    code = "from tiltlm.storage import hub; hub.TIMEOUT = 1.0; from tiltlm.cli.main import main; main()"
    command = [*before, sys.executable, "-c", code, "preview", str(data), "--model", model, "--rows", "1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stderr


@pytest.mark.slow
def test_a_proxy_that_never_answers(home, data):
    with silent_server() as address:
        code, said = preview(home, data, "owner/tiny", HTTPS_PROXY=address)
    assert (code, "owner/tiny is read from the cache" in said) == (0, True), said


@pytest.mark.long
@pytest.mark.skipif(not shutil.which("unshare") or os.geteuid() != 0, reason="needs the right to leave the network")
@pytest.mark.parametrize("name", ["owner/tiny", "owner/other"])
def test_no_network_at_all(home, data, name):
    code, said = preview(home, data, name, "unshare", "-n")
    if name == "owner/tiny":
        assert (code, "owner/tiny is read from the cache" in said) == (0, True), said
    else:
        assert (code, "owner/other is not in the cache" in said) == (2, True), said
    assert constants.ENDPOINT in said
