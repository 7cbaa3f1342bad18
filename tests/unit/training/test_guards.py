"""The first signal stops the run before the next pack with a checkpoint; a second one ends the process at once."""

import math
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from support.errors import raises
from support.signalled import Signalled, train
from support.toy_training import without_times
from tiltlm.training.checkpoints import files as checkpoint
from tiltlm.training.checkpoints.files import steps_in
from tiltlm.training.guards import Interrupted, bad_step, is_good


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    policy = Signalled()
    records = train(tmp_path_factory.mktemp("whole") / "run", policy)
    return policy, without_times(records)


@pytest.mark.parametrize(("signum", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_at_any_forward_a_signal_commits_and_the_resumed_run_is_the_unbroken_one(tmp_path, whole, signum, exit_code):
    """Every fourth forward of the run: noise floor, start check, evaluations, packs in the middle of a step."""
    unbroken, records = whole
    before = signal.getsignal(signum)
    for at in range(2 if signum == signal.SIGTERM else 4, unbroken.num_forwards, 4):
        folder = tmp_path / str(at)
        with raises(Interrupted, "interrupted", mentions=[signal.Signals(signum).name, "--resume"]) as stop:
            train(folder, Signalled(at, signum))
        assert stop.value.exit_code == exit_code
        assert signal.getsignal(signum) is before
        assert len(steps_in(folder / "checkpoints")) == 1
        resumed = Signalled()
        assert without_times(train(folder, resumed, resume=True)) == records, at
        assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), unbroken.parameters(), strict=True))


@pytest.mark.parametrize("step", [6, 5])
def test_a_signal_during_a_commit_is_honoured(tmp_path, whole, monkeypatch, step):
    """Step 6 is the last one: no pack follows at which the signal would be noticed."""
    commit = checkpoint.commit

    def signalled(folder, done, *more):
        if done == step:
            signal.raise_signal(signal.SIGTERM)
        return commit(folder, done, *more)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "commit", signalled)
        with raises(Interrupted, "interrupted", mentions=["SIGTERM", f"step {step}", "--resume"]) as stop:
            train(tmp_path / "run", Signalled(), save_every=step)
    assert stop.value.exit_code == 143
    assert steps_in(tmp_path / "run/checkpoints") == [step]
    resumed = Signalled()
    assert without_times(train(tmp_path / "run", resumed, resume=True, save_every=step)) == whole[1]
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), whole[0].parameters(), strict=True))


SCRIPT = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = {folders!r}
import torch
torch.set_num_threads(1)
from support.signalled import Signalled, train
from tiltlm.core import TiltError

class Twice(Signalled):
    def forward(self, forest):
        responses = super().forward(forest)
        if self.num_forwards == self.at + {more}:
            os.kill(os.getpid(), signal.SIGTERM)
        return responses

try:
    train(Path(sys.argv[1]), Twice(at=20))
except TiltError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


@pytest.mark.slow
def test_the_exit_code_of_a_process(tmp_path):
    """One signal: committed, then 143. Two: 143 at once, nothing committed."""
    here, processes = Path(__file__).parent, {}
    for name, more in (("one", 1000), ("two", 0)):
        script = SCRIPT.format(folders=[str(here), str(here.parents[1])], more=more)
        command = [sys.executable, "-c", script, str(tmp_path / name)]
        processes[name] = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for name, process in processes.items():
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 143, errors
        assert len(steps_in(tmp_path / name / "checkpoints")) == (1 if name == "one" else 0)
        assert ("--resume" in errors) is (name == "one")


@pytest.mark.parametrize(
    ("loss", "grad_norm", "good"), [(1.0, 2.0, True), (math.nan, 1.0, False), (1.0, math.inf, False)]
)
def test_what_may_reach_the_weights(loss, grad_norm, good):
    assert is_good(loss, grad_norm) is good


def test_a_bad_step_is_recorded_with_its_true_value():
    record, message = bad_step(7, math.inf, math.nan, [], ["a", "b", "c", "d"])
    assert all(text in message for text in ("step 7", "loss inf", "nan", "a, b, c and 1 more"))
    assert record["examples"] == ["a", "b", "c", "d"]
    assert bad_step(7, math.nan, 1.0, ["b"], ["a", "b"])[1].endswith("not finite in b")
