"""Trackers get grouped numbers, one identity for a run, and can neither stop a run nor slow it down."""

import json
import threading

import pytest

from support.errors import events, raises
from tiltlm.core import ConfigError, RunError
from tiltlm.runs.directory import RunDirectory
from tiltlm.training.tracking import trackers as module
from tiltlm.training.tracking.trackers import Sender, Trackers, open_trackers


class Kept:
    """A service that keeps what it gets."""

    def __init__(self, *given):
        self.given, self.points, self.is_finished = given, [], False

    def log(self, numbers, step):
        self.points.append((dict(numbers), step))

    def finish(self):
        self.is_finished = True


def sent_by(*records: dict) -> list:
    service = Kept()
    trackers = Trackers([Sender("kept", service)])
    for record in records:
        trackers.add(record)
    trackers.close()
    assert service.is_finished
    return service.points


def test_names_are_grouped_and_texts_left_out():
    assert sent_by(
        {"step": 0, "epoch": 0.0, "eval_loss": 0.7, "eval_rewards/margins": 0.0},
        {"step": 1, "epoch": 0.5, "loss": 0.6, "grad_norm": 2, "note": "text"},
        {"step": 2, "epoch": 1.0, "loss": "NaN", "grad_norm": "Infinity", "skipped": True},
    ) == [
        ({"eval/loss": 0.7, "eval/rewards/margins": 0.0}, 0),
        ({"train/epoch": 0.5, "train/loss": 0.6, "train/grad_norm": 2.0}, 1),
        ({"train/epoch": 1.0, "train/skipped": 1.0}, 2),
    ]


def test_a_round_is_sent_with_the_ends_of_its_intervals():
    service = Kept()
    trackers = Trackers([Sender("kept", service)])
    reward = {"estimate": 1.0, "low": 0.5, "high": 1.5, "level": 0.95, "n": 3}
    trackers.add_round({"round": 2, "reward": reward, "kl": None, "num_samples": 8, "dropped": {"tie": 1}}, 12)
    trackers.close()
    numbers = {"round/number": 2, "round/reward": 1, "round/reward_low": 0.5, "round/reward_high": 1.5}
    assert service.points == [({**numbers, "round/num_samples": 8}, 12)]


@pytest.mark.parametrize("when", ["log", "finish"])
def test_a_tracker_that_fails_is_left_out_and_the_others_go_on(caplog, when):
    broken, kept = Kept(), Kept()

    def fail(*_):
        raise ConnectionError("no network")

    setattr(broken, when, fail)
    trackers = Trackers([Sender("broken", broken), Sender("kept", kept)])
    for step in range(3):
        trackers.add({"step": step, "loss": 0.5})
    trackers.close()
    assert [step for _, step in kept.points] == [0, 1, 2]
    (record,) = events(caplog, "tracker_failed")
    assert record.tracker == "broken"
    assert "no network" in record.getMessage()


def test_a_tracker_that_hangs_is_not_waited_for(caplog, monkeypatch):
    monkeypatch.setattr(module, "WAITING", 2)
    free = threading.Event()

    class Hanging(Kept):
        def log(self, numbers, step):
            free.wait()

    sender = Sender("hanging", Hanging())
    for step in range(10):
        sender.send({"train/loss": 0.5}, step)
    assert not sender.is_working
    (record,) = events(caplog, "tracker_failed")
    assert record.tracker == "hanging"
    free.set()


def test_the_end_is_not_waited_for_longer_than_said(caplog):
    free = threading.Event()

    class Slow(Kept):
        def finish(self):
            free.wait()

    sender = Sender("slow", Slow())
    sender.close(seconds=0.01)
    assert len(events(caplog, "tracker_failed")) == 1
    free.set()


def test_a_run_keeps_its_identity(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(module, "SERVICES", {"tensorboard": lambda *given: opened.append(given) or Kept()})
    for resume in (False, True):
        with RunDirectory.open(tmp_path / "run", resume=resume) as run:
            open_trackers(["tensorboard"], run.path, {"seed": 0, "reference": None}, is_new=run.is_new).close()
    assert opened[0] == opened[1]
    assert opened[0][1] == json.loads((tmp_path / "run" / "trackers.json").read_text())["id"]
    assert opened[0][2] == {"seed": 0, "reference": "None"}
    with RunDirectory.open(tmp_path / "run", overwrite=True) as run:
        open_trackers(["tensorboard"], run.path, {}, is_new=True).close()
    assert opened[2][1] != opened[0][1]


def test_a_tracker_that_cannot_start_refuses_a_new_run_only(tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise OSError("no login")

    monkeypatch.setattr(module, "SERVICES", {"tensorboard": fail})
    with raises(RunError, "tracker_failed", key="training.trackers", mentions=["tensorboard", "no login"]):
        open_trackers(["tensorboard"], tmp_path, {}, is_new=True)
    open_trackers(["tensorboard"], tmp_path, {}, is_new=False).close()
    assert len(events(caplog, "tracker_failed")) == 1


def test_a_missing_package_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tiltlm.training.packages.is_installed", lambda name: False)
    with raises(ConfigError, "missing_dependency", key="training.trackers"):
        open_trackers(["trackio"], tmp_path, {}, is_new=True)
