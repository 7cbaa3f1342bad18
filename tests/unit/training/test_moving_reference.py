"""A reference that moves in a run: when, by how much, and the same after a kill."""

import pytest
import torch
from safetensors.torch import load_file

from support.errors import raises
from support.small_run import Run as StillRun
from support.toy_training import Killed, rows, without_times
from support.two_ranks import language_model
from tiltlm.core import ConfigError, RunError
from tiltlm.objectives import dpo
from tiltlm.reference import ReferenceSettings
from tiltlm.reference.moving import MovingReference
from tiltlm.runs.directory import RunDirectory
from tiltlm.training.checkpoints.files import folder_of
from tiltlm.training.loop import train_loop
from tiltlm.training.recorder import Listener
from tiltlm.training.training_settings import TrainingSettings

TRAIN, HELD_OUT = rows(10), rows(4, seed=1)
RATE = 0.4


class Recorded(MovingReference):
    """Records the steps after which it moved."""

    def __init__(self, *settings):
        super().__init__(*settings)
        self.moved_after = []

    def after_step(self, step, weights):
        has_moved = super().after_step(step, weights)
        self.moved_after += [step] if has_moved else []
        return has_moved


class Run:
    """A run with a moving reference, up to its end or to a kill: 6 steps, an update after every second one."""

    def __init__(self, folder, resume=False, kill_after=None, rate=RATE, period=2, **settings):
        self.notes = []
        self.policy = language_model(tied=True, lora=False)
        self.reference = Recorded(self.policy, rate, period, 40)
        knobs = {"num_epochs": 2, "batch_size": 4, "max_tokens": 40, "learning_rate": 0.02, "save_every": 2} | settings

        def step(done, total):
            if done == kill_after:
                raise Killed

        with RunDirectory.open(folder, resume=resume) as run:
            self.checkpoints = run.checkpoints
            self.result = train_loop(
                self.policy, TRAIN, HELD_OUT, dpo(), self.reference, TrainingSettings(**knobs), run, "fingerprint",
                resume=resume, listener=Listener(note=self.notes.append, step=step),
            )  # fmt: skip

        self.moved_after = self.reference.moved_after


def kept(run, step, file):
    return load_file(folder_of(run.checkpoints, step) / f"{file}.safetensors")


def test_the_reference_is_what_the_checkpoints_of_the_policy_say(tmp_path):
    """θ_ref after steps 2, 4, 6 from the policies on disk and the start; between updates it stays."""
    start = {name: p.detach() for name, p in language_model(tied=True, lora=False).named_parameters()}
    run = Run(tmp_path / "run", save_every=1, keep_checkpoints=9)
    assert run.moved_after == [2, 4, 6]
    expected = start
    for step in range(1, 7):
        if step % 2 == 0:
            policy = kept(run, step, "policy")
            expected = {name: RATE * policy[name] + (1 - RATE) * value for name, value in expected.items()}
        found = kept(run, step, "reference")
        assert found.keys() == expected.keys()
        for name, tensor in found.items():
            torch.testing.assert_close(tensor, expected[name], atol=1e-14, rtol=1e-14)
    assert any(not torch.equal(expected[name], start[name]) for name in start)


@pytest.mark.parametrize("killed_after", [1, 2, 3, 5])
def test_resuming_equals_never_having_stopped_bit_for_bit(tmp_path, killed_after):
    """Saves at 3 and 6 fall between updates and on one; 1 to 3 are killed before the first save."""
    expected = Run(tmp_path / "whole", save_every=3)
    with pytest.raises(Killed):
        Run(tmp_path / "cut", kill_after=killed_after, save_every=3)
    resumed = Run(tmp_path / "cut", resume=True, save_every=3)
    for own, other in zip(resumed.policy.parameters(), expected.policy.parameters(), strict=True):
        assert torch.equal(own, other)
    for name, tensor in resumed.reference.tensors().items():
        assert torch.equal(tensor, expected.reference.tensors()[name])
    assert without_times(resumed.result.history) == without_times(expected.result.history)
    assert resumed.moved_after == ([4, 6] if killed_after > 3 else [2, 4, 6])


def test_a_hard_update_brings_the_margin_back_to_zero(tmp_path):
    run = Run(tmp_path / "run", rate=1.0, period=3, eval_every=1)
    margins = {r["step"]: abs(r["eval_rewards/margins"]) for r in run.result.history if "eval_loss" in r}
    assert max(margins[step] for step in (0, 3, 6)) < 1e-12
    assert min(margins[step] for step in (1, 2, 4, 5)) > 1e-6


def test_the_best_step_has_its_own_reference(tmp_path):
    run = Run(tmp_path / "run", best_metric="eval_loss", period=1, eval_every=1, num_epochs=4, learning_rate=0.2)
    best = run.result.best_step
    assert best < run.result.num_steps, "a step that overfits; else this shows nothing"
    for name, tensor in run.reference.tensors().items():
        assert torch.equal(tensor, kept(run, best, "reference")[name])


def test_other_rates_are_another_run(tmp_path):
    with pytest.raises(Killed):
        Run(tmp_path / "run", kill_after=3)
    with raises(ConfigError, "other_run", key="--resume", mentions=["reference", "moving(0.4, 2)", "moving(0.5, 2)"]):
        Run(tmp_path / "run", resume=True, rate=0.5)


def test_a_damaged_reference_is_a_damaged_checkpoint(tmp_path):
    expected = Run(tmp_path / "whole")
    with pytest.raises(Killed):
        Run(tmp_path / "cut", kill_after=5)
    (tmp_path / "cut/checkpoints/step-00000004/reference.safetensors").unlink()
    resumed = Run(tmp_path / "cut", resume=True)
    assert any("step-00000004" in note and "reference.safetensors" in note for note in resumed.notes)
    for own, other in zip(resumed.policy.parameters(), expected.policy.parameters(), strict=True):
        assert torch.equal(own, other)


def test_a_policy_that_is_not_the_start_is_found(tmp_path):
    policy = language_model(tied=True, lora=False)
    reference = MovingReference(policy, 0.5, 2, 40)
    with torch.no_grad():
        policy.get_input_embeddings().weight.mul_(1.5)
    with (
        RunDirectory.open(tmp_path / "run") as run,
        raises(RunError, "differs_at_start", row="row-0", mentions=["moving"]),
    ):
        train_loop(policy, TRAIN, (), dpo(), reference, TrainingSettings(), run, "f")


def test_a_reference_that_stands_still_leaves_no_file(tmp_path):
    """`tensors` of every other reference is empty."""
    run = StillRun(tmp_path / "run")
    assert not list(run.path.checkpoints.rglob("reference.safetensors"))
    assert ReferenceSettings().rate is None
