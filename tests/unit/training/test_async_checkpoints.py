"""A thread writes a checkpoint while training goes on; the files are those of a run that waits for each."""

import json
import signal
from hashlib import sha256
from threading import Event

import pytest
import torch

from support.errors import raises
from support.small_run import Run
from support.toy_training import Killed, ToyPolicy, without_times
from tiltlm.core import RunError
from tiltlm.training.checkpoints import files as checkpoint
from tiltlm.training.checkpoints.background import Background
from tiltlm.training.checkpoints.files import damage, folder_of, load, steps_in
from tiltlm.training.guards import Interrupted

ASYNC = {"async_checkpoints": True}


def assert_equal(found, expected):
    for name, tensor in expected.policy.state_dict().items():
        assert torch.equal(found.policy.state_dict()[name], tensor)
    assert without_times(found.result.history) == without_times(expected.result.history)


def test_the_checkpoints_are_those_of_a_run_that_waits(tmp_path):
    runs = {name: Run(tmp_path / name, async_checkpoints=name == "thread", keep_checkpoints=9) for name in
            ("thread", "waits")}  # fmt: skip
    assert_equal(runs["thread"], runs["waits"])
    found, expected = (runs[name].path.checkpoints for name in ("thread", "waits"))
    assert steps_in(found) == steps_in(expected) == [2, 4, 6]
    for step in steps_in(found):
        one, other = load(folder_of(found, step)), load(folder_of(expected, step))
        assert one.state["progress"] == other.state["progress"]
        for part, tensors in one.parts.items():
            assert all(torch.equal(tensor, other.parts[part][name]) for name, tensor in tensors.items())


@pytest.mark.parametrize("killed_after", [2, 3, 4, 5])
def test_resuming_equals_never_having_stopped(tmp_path, killed_after):
    expected = Run(tmp_path / "whole")
    with pytest.raises(Killed):
        Run(tmp_path / "cut", kill_after=killed_after, **ASYNC)
    assert_equal(Run(tmp_path / "cut", resume=True, **ASYNC), expected)


class Gated:
    """The commit of the first checkpoint waits for a step that comes after it."""

    def __init__(self, monkeypatch):
        self.gate, self.began, plain = Event(), Event(), checkpoint.commit

        def commit(folder, step, *rest):
            self.began.set()
            assert self.gate.wait(60)
            return plain(folder, step, *rest)

        monkeypatch.setattr(checkpoint, "commit", commit)


class Opening(ToyPolicy):
    """Opens a gate in a forward that comes after the first checkpoint was begun."""

    gated = None
    num_after = 0

    def forward(self, forest):
        if self.gated is not None and self.gated.began.is_set():
            self.num_after += 1
            self.gated.gate.set()
        return super().forward(forest)


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    """The commit ends only if a forward begins meanwhile; a run that waits for it would wait for ever."""
    expected = Run(tmp_path / "whole")
    policy = Opening(seed=1)
    monkeypatch.setattr(type(policy), "gated", Gated(monkeypatch))
    found = Run(tmp_path / "run", policy=policy, **ASYNC)
    assert policy.num_after > 0
    assert_equal(found, expected)
    assert steps_in(found.path.checkpoints) == [4, 6]


def block(folder, step):
    """Put a file where the folder of a checkpoint is written."""
    (folder / f"checkpoints/.step-{step:08d}.tmp").write_text("in the way")


class Blocking(ToyPolicy):
    """Blocks the checkpoint of step 4 once that of step 2 is there."""

    folder = None

    def forward(self, forest):
        if self.folder is not None and (self.folder / "checkpoints/step-00000002").exists():
            block(self.folder, 4)
        return super().forward(forest)


def test_an_error_of_the_thread_is_raised_before_the_run_ends(tmp_path):
    policy = Blocking(seed=1)
    policy.folder = tmp_path / "run"
    with raises(RunError, "not_writable", mentions=["step-00000004", "the checkpoint of step 2 is unchanged"]):
        Run(tmp_path / "run", policy=policy, **ASYNC)
    assert steps_in(tmp_path / "run/checkpoints") == [2]


class Signalled(ToyPolicy):
    """Sends its own process SIGTERM in a forward after the first checkpoint was begun, and then opens the gate."""

    gated = None

    def forward(self, forest):
        if self.gated is not None and self.gated.began.is_set() and not self.gated.gate.is_set():
            signal.raise_signal(signal.SIGTERM)
            self.gated.gate.set()
        return super().forward(forest)


def test_a_signal_waits_for_the_checkpoint_in_the_making_and_writes_its_own(tmp_path, monkeypatch):
    policy = Signalled(seed=1)
    monkeypatch.setattr(type(policy), "gated", Gated(monkeypatch))
    with pytest.raises(Interrupted) as stop:
        Run(tmp_path / "run", policy=policy, **ASYNC)
    assert stop.value.exit_code == 143
    newest = steps_in(tmp_path / "run/checkpoints")[-1]
    assert f"after step {newest}" in str(stop.value)
    assert damage(folder_of(tmp_path / "run/checkpoints", newest)) is None


def test_what_is_asked_of_the_newest_checkpoint_waits_for_it(tmp_path, monkeypatch):
    """All steps from the third on are bad, and the error names the checkpoint that was being written."""
    policy = Opening(seed=1)
    monkeypatch.setattr(type(policy), "gated", Gated(monkeypatch))
    with raises(RunError, "too_many_bad_steps", mentions=["the checkpoint of step 2 can be"]):
        Run(tmp_path / "run", policy=policy, poisoned=range(16, 99), max_bad_steps=1, max_tokens=400, **ASYNC)


def test_one_call_at_a_time_whose_error_is_kept(tmp_path):
    background, gate = Background(), Event()

    def fail():
        gate.wait(60)
        raise OSError("the disk is gone")

    background.start(fail)
    assert background.is_busy
    assert not background.has_ended
    gate.set()
    background.settle()
    assert background.has_ended
    with pytest.raises(OSError, match="the disk is gone"):
        background.wait()
    assert not background.is_busy
    background.wait()  # nothing is left to wait for


def test_a_checkpoint_of_format_3_is_resumed(tmp_path):
    expected = Run(tmp_path / "whole", log_every=4)
    with pytest.raises(Killed):
        Run(tmp_path / "cut", kill_after=3, log_every=4)
    path = folder_of(tmp_path / "cut/checkpoints", 2)
    state = json.loads((path / "state.json").read_text())
    (state["window"]["metric_sums"],) = state["window"]["metric_sums"]
    (path / "state.json").write_text(json.dumps(state))
    manifest = json.loads((path / "manifest.json").read_text())
    size, digest = (path / "state.json").stat().st_size, sha256((path / "state.json").read_bytes()).hexdigest()
    manifest |= {"format": 3, "files": manifest["files"] | {"state.json": {"size": size, "sha256": digest}}}
    (path / "manifest.json").write_text(json.dumps(manifest))
    (path / "manifest.sha256").write_text(f"{sha256((path / 'manifest.json').read_bytes()).hexdigest()}  manifest.json")
    assert_equal(Run(tmp_path / "cut", resume=True, log_every=4), expected)
