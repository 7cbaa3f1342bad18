"""What can be refused early is refused before torch or transformers is imported, and leaves nothing behind."""

import json
import subprocess
import sys

import pytest

PROGRAM = """
import json, sys
import tiltlm
from tiltlm.core.errors import TiltError

given, cases, heavy = json.loads(sys.argv[1])
sys.modules |= {"trackio": None, "bitsandbytes": None}  # as if they were not installed
found = []
for command, settings in cases:
    settings = {**given, **settings}
    if command in ("score", "preview"):
        settings.pop("output", None)
    arguments = [None, settings.pop("grid")] if command == "sweep" else []
    try:
        getattr(tiltlm, command)(*arguments, **settings)
    except TiltError as error:
        found.append([error.code, error.key, sorted(set(heavy) & sys.modules.keys())])
print(json.dumps(found))
"""
"""Run in a new process: refusals of several commands, one after another, and the heavy modules after each."""

HEAVY = ["accelerate", "datasets", "pandas", "torch", "transformers"]


def refusals(given: dict, cases: list[tuple[str, dict]]) -> list[list]:
    """Return code and key of each refusal, and the heavy modules that were imported until then."""
    arguments = json.dumps([given, cases, HEAVY])
    done = subprocess.run([sys.executable, "-c", PROGRAM, arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def given(model, data, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "unknown.jsonl").write_text('{"question": "q", "x": "a", "y": "b"}\n' * 3)
    (tmp_path / "unpaired.jsonl").write_text(
        '{"prompt": "q", "completion": "a", "label": true}\n{"prompt": "q", "completion": "b", "label": false}\n'
    )
    before = sorted(tmp_path.rglob("*"))
    yield {"model": str(model), "data": str(data), "objective": "dpo", "output": str(tmp_path / "run")}
    assert sorted(tmp_path.rglob("*")) == before, "a refusal leaves nothing behind"


def test_what_needs_no_objective_is_refused_before_torch(given, tmp_path):
    in_file, unknown = str(tmp_path / "file" / "run"), str(tmp_path / "unknown.jsonl")
    cases = {
        ("train", "no_such_path", None): {"data": "/no/such.jsonl"},
        ("train", "unknown_column", "data.columns"): {"data": unknown},
        ("train", "no_such_column", "data.ignore"): {"data.ignore": ["zzz"]},
        ("train", "missing_dependency", "training.trackers"): {"training.trackers": ["trackio"]},
        ("train", "missing_dependency", "training.optimizer"): {"training.optimizer": "adamw_8bit"},
        ("train", "not_writable", "output"): {"output": in_file},
        ("train", "unknown_setting", "training.batchsize"): {"training.batchsize": 1},
        ("train", "wrong_type", "training.seed"): {"training.seed": "one", "beta": 0.1},
        ("train", "no_such_path", "model.path"): {"model": "/no/such/model", "beta": 0.1},
        ("train", "no_run", "--resume"): {"resume": True},
        ("sweep", "no_such_path", None): {"data": "/no/such.jsonl", "grid": {"beta": [0.1, 0.2]}},
        ("sweep", "not_writable", "output"): {"output": in_file, "grid": {"beta": [0.1, 0.2]}},
        ("sweep", "unknown_column", "data.columns"): {"grid": {"data.eval": [given["data"], unknown]}},
        ("score", "no_such_path", None): {"data": "/no/such.jsonl"},
        ("score", "no_such_path", "--per-example"): {"per_example": str(tmp_path / "none" / "rows.jsonl")},
        ("preview", "unknown_column", "data.columns"): {"data": unknown},
        ("preview", "no_such_path", "model.path"): {"model": "/no/such/model"},
    }
    found = refusals(given, [(command, settings) for (command, _, _), settings in cases.items()])
    assert found == [[code, key, []] for _, code, key in cases]


def test_what_needs_the_objective_is_refused_before_transformers(given, tmp_path):
    cases = {
        ("train", "wrong_data_shape", None): {"data": str(tmp_path / "unpaired.jsonl")},
        ("train", "unknown_setting", "objective.bta"): {"objective.bta": 1},
        ("train", "unknown_setting", "bta"): {"bta": 1},
        ("train", "no_effect", "reference.name"): {"objective": "simpo", "reference": "initial"},
        ("score", "needs_reference", "reference.name"): {},
        ("score", "wrong_data_shape", None): {"data": str(tmp_path / "unpaired.jsonl"), "reference": "initial"},
        ("sweep", "wrong_data_shape", None): {
            "data": str(tmp_path / "unpaired.jsonl"),
            "grid": {"beta": [0.1, 0.2]},
        },
    }
    found = refusals(given, [(command, settings) for (command, _, _), settings in cases.items()])
    assert found == [[code, key, ["torch"]] for _, code, key in cases]
