"""What came of runs of several processes that `sharded_runs.py` made, and how two of them compare."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from support import sharded_runs
from support.toy_training import without_times


@dataclass
class Made:
    """The runs of some cases."""

    folder: Path

    def run(self, name):
        return self.folder / name

    def weights(self, name):
        return load_file(self.folder / "results" / f"{name}.safetensors")

    def __getitem__(self, name):
        return json.loads((self.folder / "results" / f"{name}.json").read_text())


def made(cases, folder):
    (folder / "cases.json").write_text(json.dumps([{"folder": case["name"]} | case for case in cases]))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-m", "support.sharded_runs", str(folder)],
        cwd=Path(sharded_runs.__file__).parents[1], env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=400,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return Made(folder)


def assert_equal(made, name, expected="whole"):
    """Bit for bit, the metrics too."""
    assert made[name]["errors"] == made[expected]["errors"]
    found = made.weights(name)
    assert all(torch.equal(tensor, found[key]) for key, tensor in made.weights(expected).items())
    assert without_times(made[name]["history"]) == without_times(made[expected]["history"])


def assert_close(made, name, expected="whole"):
    assert not any(made[name]["errors"] + made[expected]["errors"])
    found = made.weights(name)
    for key, tensor in made.weights(expected).items():
        torch.testing.assert_close(found[key], tensor, atol=1e-6, rtol=1e-4, msg=key)
    records, others = (without_times(made[run]["history"]) for run in (name, expected))
    assert len(records) == len(others)
    for record, other in zip(records, others, strict=True):
        assert record == pytest.approx(other, rel=1e-3, abs=1e-5)
