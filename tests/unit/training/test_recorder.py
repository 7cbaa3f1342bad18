"""Records go to metrics.jsonl, trackers and the listener, in rank 0 only; a resumed run drops what it will repeat."""

import math

import pytest

from tiltlm.distributed.ranks import Ranks
from tiltlm.runs.directory import RunDirectory
from tiltlm.storage.files import read_lines
from tiltlm.training.recorder import Listener, Recorder


def test_rewinding_keeps_what_the_checkpoint_holds(tmp_path):
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


def test_only_rank_0_writes_and_calls_the_listener(tmp_path):
    calls = []
    with RunDirectory.open(tmp_path / "run") as run:
        recorder = Recorder(run, (), {}, Ranks(rank=1, size=2), Listener(calls.append, calls.append, calls.append))
        recorder.note("hello")
        recorder.add({"step": 1, "loss": 1.0})
        recorder.add_bad_step({"step": 1})
        assert not run.metrics.exists()
    assert calls == []


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
