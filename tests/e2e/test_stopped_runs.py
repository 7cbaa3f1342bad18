"""A run that a signal ends at any moment and that is continued is the run that was never stopped, bit for bit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from support.stopped_runs import PHASES
from support.toy_training import without_times
from tiltlm.storage.files import read_lines

TESTS = Path(__file__).parents[1]


@pytest.fixture
def stopped(model, data, tmp_path):
    """Return a function that runs `support.stopped_runs` and returns its records, after the check of each run."""

    def run(kind, *numbers, eval_fraction, **settings):
        config = tmp_path / "config.yaml"
        training = {"max_steps": 4, "batch_size": 4, "save_every": 1, "eval_every": 2 if eval_fraction else None}
        rows = {"train": str(data), "eval_fraction": eval_fraction}
        given = {"model": model, "data": rows, "objective": "dpo", "training": training}
        config.write_text(yaml.safe_dump({**given, **settings}))
        command = [sys.executable, "-m", "support.stopped_runs", tmp_path, kind, config, *map(str, numbers)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3000)
        assert done.returncode == 0, done.stderr
        records = json.loads((tmp_path / "results.json").read_text())
        for record in records:
            assert record["went_on"] == 0, record
            assert state_of(tmp_path / record["name"]) == state_of(tmp_path / "whole"), record
        return records

    return run


def state_of(folder):
    """Return what a run promises to give again."""
    leftovers = [path.name for path in folder.rglob(".*") if path.name not in (".lock",)]
    weights = (folder / "model/model.safetensors").read_bytes()
    return without_times(read_lines(folder / "metrics.jsonl")), weights, leftovers, sorted(os.listdir(folder))


@pytest.mark.long
def test_sigterm_in_every_phase(stopped):
    """The exit code is 143, one message says how to go on, and the resumed run is equal."""
    evaluation = {"num_prompts": 2, "num_samples": 2, "max_new_tokens": 8}
    records = stopped("phases", eval_fraction=0.25, evaluation=evaluation)
    assert [record["name"] for record in records] == list(PHASES)
    for record in records:
        assert record["ended"] == 143, record
        (line,) = [line for line in record["message"].splitlines() if line.startswith("error: ")]
        assert "SIGTERM" in line
        begun = record["name"] not in ("loading", "tokenising")
        assert ("--resume" in line) is begun, record
        assert record["message"].count("Traceback") == 0
    assert {r["name"]: r["kept"][-1] for r in records if r["name"] == "saving"} == {"saving": "step-00000002"}


@pytest.mark.long
def test_a_kill_at_fifty_moments(stopped):
    """SIGKILL before calls that change the disk, spread over the run, and at random times."""
    records = stopped("kills", 40, 12, eval_fraction=0.0)
    assert sum(record["ended"] == -9 for record in records) >= 50
