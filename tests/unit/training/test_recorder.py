"""Records go to metrics.jsonl, trackers and the listener, in rank 0 only; a resumed run drops what it will repeat."""

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


def test_a_resumed_run_sends_no_step_twice(tmp_path, monkeypatch):
    sent: list[tuple[dict, int]] = []

    class Kept:
        def __init__(self, *_):
            pass

        def log(self, numbers, step):
            sent.append((dict(numbers), step))

        def finish(self):
            pass

    monkeypatch.setattr("tiltlm.training.tracking.trackers.SERVICES", {"tensorboard": Kept})
    for resume in (False, True):
        with RunDirectory.open(tmp_path / "run", resume=resume) as run:
            recorder = Recorder(run, ("tensorboard",), {}, Ranks(), Listener())
            recorder.rewind(step=2 * resume, evaluated_at=0 if resume else -1)
            for record in [
                {"step": 0, "eval_loss": 3.0}, {"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5},
                {"step": 2, "eval_loss": 1.4}, {"step": 3, "loss": 1.2}, {"step": 4, "loss": 1.0},
            ][3 * resume : 5 + resume]:  # fmt: skip
                recorder.add(record)
            recorder.close()
    assert [step for _, step in sent] == [0, 1, 2, 2, 3, 4]
    assert sent[0][0] == {"eval/loss": 3.0}
    assert sent[-1][0] == {"train/loss": 1.0}
