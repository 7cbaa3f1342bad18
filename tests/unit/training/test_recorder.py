"""metrics.jsonl is strict JSON, its lines are whole, and no bad value is shown as a good one."""

import json
import math

import pytest

from support.errors import raises
from tiltlm.core import RunError
from tiltlm.distributed.ranks import Ranks
from tiltlm.runs.directory import RunDirectory
from tiltlm.storage.files import append_line, finite_json, read_lines
from tiltlm.training.recorder import Listener, Recorder


def refuse(constant):
    raise ValueError(constant)


def test_values_that_are_not_finite_are_written_as_they_are(tmp_path):
    append_line(tmp_path / "m.jsonl", {"step": 1, "loss": math.nan, "more": {"a": [math.inf, -math.inf, 0.5]}})
    (line,) = (tmp_path / "m.jsonl").read_text().splitlines()
    record = json.loads(line, parse_constant=refuse)
    assert record == {"step": 1, "loss": "NaN", "more": {"a": ["Infinity", "-Infinity", 0.5]}}
    assert math.isnan(float(record["loss"]))


def test_a_torn_last_line_is_left_out_and_a_torn_middle_one_is_an_error(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "lo')
    assert read_lines(path) == [{"step": 1}]
    path.write_text('{"step": 1}\n{"step": 2, "lo\n{"step": 3}\n')
    with raises(RunError, "damaged", row="m.jsonl:2", mentions=[f"{path}:2"]):
        read_lines(path)
    assert read_lines(tmp_path / "none.jsonl") == []


def test_rewinding_keeps_what_the_checkpoint_knows(tmp_path):
    with RunDirectory.open(tmp_path / "run") as run:
        recorder = Recorder(run, (), {}, Ranks(), Listener())
        for record in [
            {"step": 0, "eval_loss": 3.0}, {"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5},
            {"step": 2, "eval_loss": 1.6}, {"step": 3, "loss": 1.0},
        ]:  # fmt: skip
            recorder.add(record)
        recorder.rewind(step=2, evaluated_at=0)  # killed during the evaluation after step 2
        assert [sorted(r) for r in recorder.history] == [["eval_loss", "step"], ["loss", "step"], ["loss", "step"]]
        assert read_lines(run.metrics) == recorder.history


def test_only_the_first_process_writes_and_speaks(tmp_path):
    heard = []
    with RunDirectory.open(tmp_path / "run") as run:
        recorder = Recorder(run, (), {}, Ranks(rank=1, size=2), Listener(heard.append, heard.append, heard.append))
        recorder.note("hello")
        recorder.add({"step": 1, "loss": 1.0})
        recorder.add_bad_step({"step": 1})
        assert not run.metrics.exists()
    assert heard == []


def test_tensorboard_gets_the_numbers(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with RunDirectory.open(tmp_path / "run") as run:
        recorder = Recorder(run, ("tensorboard",), {"seed": 0, "reference": None}, Ranks(), Listener())
        recorder.add({"step": 1, "loss": 0.5, "skipped": True})
        recorder.add({"step": 2, "loss": math.nan})
        recorder.close()
        events = EventAccumulator(str(run.path / "tiltlm"))
        events.Reload()
        assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 0.5)]


def test_strict_leaves_good_values_alone():
    assert finite_json({"a": 1, "b": [True, None, "x", 0.25]}) == {"a": 1, "b": [True, None, "x", 0.25]}
