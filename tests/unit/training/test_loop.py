"""A run that is killed and resumed equals one that was not; guards, early stop, best checkpoint, step 0."""

import json
import math
import shutil
import signal
import threading

import pytest
import torch

from support.errors import events, raises
from support.small_run import HELD_OUT, TRAIN, Run
from support.toy_training import Killed, SortedMargins, ToyPolicy, ToyReference, without_times
from tiltlm.core import ConfigError, RunError, pack_trees
from tiltlm.core.finite import not_finite
from tiltlm.objectives import bco, dpo, ipo, kto
from tiltlm.runs.directory import RunDirectory
from tiltlm.storage.files import read_lines
from tiltlm.training.checkpoints.files import damage, folder_of, load, steps_in
from tiltlm.training.guards import Interrupted
from tiltlm.training.loop import train_loop
from tiltlm.training.packs import Pack
from tiltlm.training.recorder import Listener
from tiltlm.training.timetable import Timetable
from tiltlm.training.training_settings import TrainingSettings, default_learning_rate


def weights(run):
    return torch.cat([p.detach().flatten() for p in run.policy.parameters()])


@pytest.mark.parametrize("killed_after", [1, 2, 3, 5])
@pytest.mark.parametrize(
    ("objective", "settings"),
    [
        (dpo(), {}),
        (kto(), {"log_every": 4}),
        (bco(0.3), {"eval_every": 2}),
        (SortedMargins(), {"eval_every": 1}),
        (ipo(), {"best_metric": "eval_loss", "save_every": 3, "log_every": 3}),
    ],
    ids=["dpo", "kto", "bco", "sorted", "ipo"],
)
def test_resuming_equals_never_having_stopped_bit_for_bit(tmp_path, objective, settings, killed_after):
    expected = Run(tmp_path / "whole", objective, **settings)
    assert expected.result.num_steps == 6
    with pytest.raises(Killed):
        Run(tmp_path / "cut", objective, kill_after=killed_after, **settings)
    resumed = Run(tmp_path / "cut", objective, resume=True, **settings)
    assert torch.equal(weights(resumed), weights(expected))
    assert without_times(resumed.result.history) == without_times(expected.result.history)
    assert without_times(read_lines(resumed.metrics)) == without_times(read_lines(expected.metrics))
    assert resumed.result.best_step == expected.result.best_step


def test_resuming_twice_and_resuming_what_is_finished(tmp_path):
    expected = Run(tmp_path / "whole")
    for kill in (3, 5):
        with pytest.raises(Killed):
            Run(tmp_path / "cut", resume=kill > 3, kill_after=kill)
    resumed = Run(tmp_path / "cut", resume=True)
    again = Run(tmp_path / "cut", resume=True)
    for run in (resumed, again):
        assert torch.equal(weights(run), weights(expected))
        assert without_times(run.result.history) == without_times(expected.result.history)
    assert again.policy.num_forwards == 9, "only the noise floor is measured again"


def test_a_damaged_checkpoint_is_skipped_and_the_run_still_ends_the_same(tmp_path):
    expected = Run(tmp_path / "whole")
    with pytest.raises(Killed):
        Run(tmp_path / "cut", kill_after=5)
    (tmp_path / "cut/checkpoints/step-00000004/optimizer.safetensors").unlink()
    resumed = Run(tmp_path / "cut", resume=True)
    assert any("step-00000004" in note and "optimizer.safetensors" in note for note in resumed.notes)
    assert any("step-00000002" in note for note in resumed.notes)
    assert torch.equal(weights(resumed), weights(expected))


def test_a_run_killed_before_its_first_checkpoint_begins_again(tmp_path):
    expected = Run(tmp_path / "whole")
    with pytest.raises(Killed):
        Run(tmp_path / "cut", kill_after=1)
    resumed = Run(tmp_path / "cut", resume=True)
    assert not any("step-0" in note for note in resumed.notes), "no checkpoint was used"
    assert without_times(read_lines(resumed.metrics)) == without_times(read_lines(expected.metrics))


def test_a_copy_of_a_checkpoint_is_ignored_and_named_once(tmp_path):
    whole = Run(tmp_path / "whole")
    with pytest.raises(Killed):
        Run(tmp_path / "run", kill_after=3)
    kept = tmp_path / "run/checkpoints/step-00000002"
    shutil.copytree(kept, kept.with_name("step-00000002.bak"))
    resumed = Run(tmp_path / "run", resume=True)
    assert torch.equal(weights(resumed), weights(whole))
    assert sum("step-00000002.bak" in note for note in resumed.notes) == 1
    assert (tmp_path / "run/checkpoints/step-00000002.bak").is_dir()


def test_another_run_cannot_go_on(tmp_path):
    with pytest.raises(Killed):
        Run(tmp_path / "run", kill_after=3)
    with raises(ConfigError, "other_run", key="--resume", mentions=["training.batch_size", "4", "5", "--overwrite"]):
        Run(tmp_path / "run", resume=True, batch_size=5)
    with raises(ConfigError, "other_run", key="--resume", mentions=["objective", "beta=0.1", "beta=0.2"]):
        Run(tmp_path / "run", dpo(beta=0.2), resume=True)


def test_a_setting_that_changes_only_rounding_is_noted(tmp_path):
    with pytest.raises(Killed):
        Run(tmp_path / "run", kill_after=3)
    resumed = Run(tmp_path / "run", resume=True, max_tokens=20)
    assert any("max_tokens 40 → 20" in note for note in resumed.notes)


def test_training_learns_and_records_it(tmp_path):
    run = Run(tmp_path / "run", num_epochs=10)
    lines = read_lines(run.metrics)
    evaluations = [line for line in lines if "eval_loss" in line]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 31))
    assert [line["step"] for line in evaluations] == list(range(0, 31, 3))
    assert evaluations[0]["eval_rewards/margins"] == pytest.approx(0, abs=1e-6)
    assert steps[-1]["rewards/margins"] > 0.1
    assert steps[-1]["epoch"] == 10
    assert {"loss", "grad_norm", "learning_rate", "num_tokens", "rewards/accuracies"} <= set(steps[0])
    assert steps_in(run.path.checkpoints) == [28, 30]


def forward_of(tmp_path, step):
    """Number, from 1, of the one forward of a step where each step is one pack."""
    counts, policy = {}, ToyPolicy(seed=1)

    def count(done, total):
        counts[done] = policy.num_forwards

    with RunDirectory.open(tmp_path / f"count-{step}") as run:
        settings = TrainingSettings(num_epochs=2, batch_size=4, learning_rate=0.02, eval_every=100)
        listener = Listener(note=lambda note: None, step=count)
        train_loop(policy, TRAIN, HELD_OUT, dpo(), ToyReference(policy), settings, run, "f", listener=listener)
    return counts[step]


ONE_PACK = {"max_tokens": 4096, "eval_every": 100}


def test_a_bad_step_never_reaches_the_weights(tmp_path):
    """It is skipped, its rows and its true loss are recorded, and the run continues."""
    run = Run(tmp_path / "bad", poisoned={forward_of(tmp_path, 3)}, **ONE_PACK)
    (line,) = [line for line in read_lines(run.metrics) if line.get("skipped")]
    (named,) = read_lines(run.path.bad_steps)
    assert line["step"] == named["step"] == 3
    assert not math.isfinite(float(line["loss"]))
    assert len(named["examples"]) == 2, "the last step of an epoch of 10 in steps of 4"
    assert set(named["culprits"]) == set(named["examples"])
    assert run.result.num_bad_steps == 1
    assert run.result.num_steps == 6
    assert torch.isfinite(weights(run)).all()
    assert any("step 3" in note and "loss" in note for note in run.notes)


class Picky(ToyPolicy):
    """Gives infinities for the examples of the steps 4, 5 and 6 of an epoch in steps of one example."""

    def __init__(self):
        super().__init__(seed=1)
        order = Timetable(len(TRAIN), "fingerprint", TrainingSettings(batch_size=1)).rows
        bad = [TRAIN[i] for step in (3, 4, 5) for i in order(step)]
        self.bad = [pack_trees(Pack.of([example]).trees).token_ids.tolist() for example in bad]

    def forward(self, forest):
        self.poisoned = {self.num_forwards + 1} if forest.token_ids.tolist() in self.bad else set()
        return super().forward(forest)


def test_bad_rows_in_a_row_stop_the_run_and_following_the_advice_goes_on_without_them(tmp_path):
    """No step is lost: the state at the stop is saved, since the weights are good."""
    settings = {"num_epochs": 1, "batch_size": 1, "save_every": 100, "eval_every": 100}
    whole = Run(tmp_path / "whole", policy=Picky(), max_bad_steps=10, **settings)
    mentions = ["step 6", "bad_steps.jsonl", "--resume training.max_bad_steps=10"]
    with raises(RunError, "too_many_bad_steps", key="training.max_bad_steps", mentions=mentions) as stop:
        Run(tmp_path / "run", policy=Picky(), **settings)
    assert stop.value.exit_code == 1
    assert steps_in(tmp_path / "run/checkpoints") == [6]
    resumed = Run(tmp_path / "run", policy=Picky(), resume=True, max_bad_steps=10, **settings)
    assert [line["step"] for line in read_lines(resumed.path.bad_steps)] == [4, 5, 6]
    assert resumed.result.num_bad_steps == whole.result.num_bad_steps == 3
    assert without_times(read_lines(resumed.metrics)) == without_times(read_lines(whole.metrics))
    assert torch.equal(weights(resumed), weights(whole))


@pytest.mark.parametrize("keep", [1, 2])
def test_an_update_that_ruins_the_weights_leaves_the_checkpoint_before_it(tmp_path, keep):
    """Each weight is finite, and the loss is not. Warm-up begins at rate 0, so step 2 is the first that counts."""
    settings = {"num_epochs": 8, "save_every": 1, "keep_checkpoints": keep}
    mentions = ["step 2", "step 1", "output=NEW_FOLDER"]
    for resume in (False, True):
        with raises(RunError, "too_many_bad_steps", key="training.learning_rate", mentions=mentions):
            Run(tmp_path / "run", learning_rate=1e30, resume=resume, **settings)
        checkpoints = tmp_path / "run/checkpoints"
        assert sorted(path.name for path in checkpoints.iterdir()) == ["ruined-step-00000002", "step-00000001"]
        assert damage(folder_of(checkpoints, 1)) is None
    assert Run(tmp_path / "new", learning_rate=0.02, **settings).result.num_steps == 24


def test_a_stop_while_steps_are_skipped_keeps_the_good_checkpoint(tmp_path):
    """A signal saves the weights of then, good or not; what it replaces has the same weights."""
    with raises(Interrupted, "interrupted"):
        Run(
            tmp_path / "run", learning_rate=1e30, num_epochs=8, save_every=1,
            note=lambda text: signal.raise_signal(signal.SIGTERM) if "step 4 is skipped" in text else None,
        )  # fmt: skip
    assert steps_in(tmp_path / "run/checkpoints") == [1, 4]


def test_a_save_that_is_due_waits_for_the_next_good_step(tmp_path):
    Run(tmp_path / "run", poisoned={forward_of(tmp_path, 2)}, max_tokens=4096, eval_every=100, keep_checkpoints=9)
    assert steps_in(tmp_path / "run/checkpoints") == [3, 4, 6]


def test_one_kept_checkpoint_is_one_after_the_next_good_step(tmp_path):
    with pytest.raises(Killed):
        Run(tmp_path / "run", kill_after=5, keep_checkpoints=1)
    assert steps_in(tmp_path / "run/checkpoints") == [4]


def test_all_steps_bad_leaves_no_checkpoint(tmp_path):
    with raises(RunError, "too_many_bad_steps"):
        Run(tmp_path / "run", poisoned=range(forward_of(tmp_path, 1), 10**4), save_every=4, **ONE_PACK)
    assert steps_in(tmp_path / "run/checkpoints") == []


def test_a_finite_gradient_that_makes_weights_infinite_stops_the_run(tmp_path):
    """Warm-up begins at rate 0, so the second step is the first that changes weights. Nothing of it is saved."""
    mentions = ["step 2", "step 1", "output=NEW_FOLDER"]
    with raises(RunError, "weights_not_finite", key="training.learning_rate", mentions=mentions):
        Run(tmp_path / "run", learning_rate=1e39, warmup_ratio=0.5, save_every=1)
    checkpoints = tmp_path / "run/checkpoints"
    assert steps_in(checkpoints) == [1]
    assert not not_finite(load(folder_of(checkpoints, 1)).policy)


def test_a_checkpoint_is_looked_at_before_it_is_called_intact(tmp_path):
    """The only one is damaged after it was written."""

    class Sabotage(ToyPolicy):
        def forward(self, forest):
            for file in tmp_path.glob("run/checkpoints/*/optimizer.safetensors"):
                file.write_bytes(b"")
            return super().forward(forest)

    with raises(RunError, "too_many_bad_steps") as stop:
        Run(tmp_path / "run", policy=Sabotage(), poisoned=range(forward_of(tmp_path, 3), 10**4), **ONE_PACK)
    assert "can be continued" not in str(stop.value)


def test_a_run_neither_reads_nor_moves_torchs_random_generator(tmp_path):
    """So a checkpoint does not hold its state."""

    def disturb(state):
        class Disturbed(ToyPolicy):
            def forward(self, forest):
                torch.set_rng_state(state)
                return super().forward(forest)

        return Disturbed(seed=1)

    torch.manual_seed(1)
    one, before = Run(tmp_path / "one"), torch.get_rng_state()
    other = Run(tmp_path / "other", policy=disturb(torch.Generator().manual_seed(5).get_state()))
    torch.set_rng_state(before)
    assert torch.equal(weights(one), weights(other))
    again = ToyPolicy(seed=1)
    state = torch.get_rng_state()
    Run(tmp_path / "again", policy=again)
    assert torch.equal(torch.get_rng_state(), state)


def test_early_stopping_restores_the_best_weights(tmp_path):
    """The held-out loss of a policy that overfits ten random rows rises soon."""
    settings = {
        "num_epochs": 30,
        "learning_rate": 0.1,
        "eval_every": 1,
        "best_metric": "eval_loss",
        "early_stopping": 3,
    }
    run = Run(tmp_path / "run", ipo(), **settings)
    values = {line["step"]: line["eval_loss"] for line in read_lines(run.metrics) if "eval_loss" in line}
    assert run.result.stopped_early
    assert run.result.best_step == min(values, key=values.get)
    assert run.result.num_steps == run.result.best_step + 3
    assert run.result.best_step in steps_in(run.path.checkpoints)
    probe = Run(tmp_path / "probe", ipo(), policy=run.policy, max_steps=1)
    # The reference of the probe is the policy itself: only its weights are compared here.
    assert any(f"step {run.result.best_step}" in note and "eval_loss" in note for note in run.notes)
    assert probe.result.num_steps == 1


def test_the_best_metric_must_be_measured(tmp_path):
    with raises(
        ConfigError, "unknown_name", key="training.best_metric", mentions=["eval_accuracy", "eval_rewards/accuracies"]
    ):
        Run(tmp_path / "run", best_metric="eval_accuracy")


def test_without_held_out_rows_nothing_is_evaluated(tmp_path):
    policy = ToyPolicy()
    with RunDirectory.open(tmp_path / "run") as run:
        settings = TrainingSettings(batch_size=4, learning_rate=0.01)
        quiet = Listener(note=lambda note: None)
        result = train_loop(policy, TRAIN, (), dpo(), ToyReference(policy), settings, run, "f", listener=quiet)
        assert all("eval_loss" not in record for record in result.history)
        with raises(ConfigError, "needs_held_out", key="training.eval_every"):
            train_loop(
                policy, TRAIN, (), dpo(), ToyReference(policy), TrainingSettings(eval_every=1), run, "f", listener=quiet
            )


def test_a_reference_that_is_not_the_policy_is_found_before_the_first_step(tmp_path):
    policy, other = ToyPolicy(seed=1), ToyPolicy(seed=2)
    with (
        RunDirectory.open(tmp_path / "run") as run,
        raises(RunError, "differs_at_start", row="row-0"),
    ):
        train_loop(policy, TRAIN, (), dpo(), ToyReference(other), TrainingSettings(), run, "f")


def test_the_derived_learning_rate_is_printed(tmp_path):
    run = Run(tmp_path / "run", learning_rate=None, max_steps=1)
    rate = default_learning_rate(sum(p.numel() for p in run.policy.parameters()), lora=False)
    assert any(f"{rate:g}" in note for note in run.notes)
    assert run.result.learning_rate == rate


def test_updates_that_rounding_loses_are_a_warning(tmp_path, caplog):
    Run(tmp_path / "float32", learning_rate=1e-6, max_steps=1)
    assert not events(caplog, "updates_lost")
    for dtype, way_out in ((torch.bfloat16, "model.dtype=float32"), (torch.float32, "training.learning_rate")):
        caplog.clear()
        rate = 1e-6 if dtype == torch.bfloat16 else 1e-9
        Run(tmp_path / str(dtype), policy=ToyPolicy(seed=1, dtype=dtype), learning_rate=rate, max_steps=1)
        (warning,) = events(caplog, "updates_lost")
        assert warning.levelname == "WARNING"
        assert 0.5 < warning.share < 1
        assert way_out in warning.getMessage()


def test_steps_beyond_the_last_epoch_are_said_to_have_no_effect(tmp_path):
    run = Run(tmp_path / "run", max_steps=100)
    assert run.result.num_steps == 6
    assert any("training.max_steps=100" in note and "training.num_epochs" in note for note in run.notes)
    assert not run.policy.training, "what comes next measures and samples"


def test_out_of_memory_is_answered_with_advice(tmp_path):
    class Hungry(ToyPolicy):
        def forward(self, forest):
            if torch.is_grad_enabled():
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(forest)

    with raises(RunError, "out_of_memory", key="training.max_tokens", mentions=["training.max_tokens=20 "]):
        Run(tmp_path / "run", policy=Hungry())


def test_training_works_outside_the_main_thread(tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(Run(tmp_path / "run", max_steps=1).result))
    thread.start()
    thread.join()
    assert results[0].num_steps == 1


def test_checkpoint_state_is_plain_json(tmp_path):
    run = Run(tmp_path / "run")
    state = json.loads((run.path.checkpoints / "step-00000006/state.json").read_text())
    assert state["progress"]["step"] == 6
    assert state["identity"]["training data"] == "fingerprint"
