"""Rounds of one trainer are one run: state, optimiser and schedule go on, also after a stop between two rounds."""

from dataclasses import replace

import pytest
import torch

from support.toy_training import ToyPolicy, ToyReference, rows
from tiltlm.objectives import bco, dpo
from tiltlm.runs.directory import RunDirectory
from tiltlm.storage.files import read_lines
from tiltlm.training.loop import build_trainer
from tiltlm.training.optim.optimizer import learning_rate_factor
from tiltlm.training.recorder import Listener
from tiltlm.training.training_settings import TrainingSettings

EXAMPLES, HELD_OUT = rows(6), rows(3, seed=1)
SETTINGS = TrainingSettings(num_epochs=4, batch_size=6, learning_rate=0.05, warmup_ratio=0.25, eval_every=2)
"""A step is all of the data, so that rounds over the same data take the same steps, but for the order in a sum."""
SCHEDULE = learning_rate_factor(SETTINGS, 4)


def weights(policy):
    return torch.cat([p.detach().flatten() for p in policy.parameters()])


def train(folder, objective, num_rounds, stop_after=None):
    """Return the policy, and the records of metrics.jsonl, after four steps in so many rounds.

    With `stop_after`, the run stops after this many rounds, with a checkpoint, and another trainer goes on.
    """
    policy = ToyPolicy(seed=1, dtype=torch.float64)
    reference, first = ToyReference(policy), 0
    for last in [stop_after, num_rounds] if stop_after else [num_rounds]:
        with RunDirectory.open(folder, resume=first > 0) as run:
            trainer = build_trainer(
                policy, (), HELD_OUT, objective, reference, replace(SETTINGS, num_epochs=4 // num_rounds), run,
                "fingerprint", listener=Listener(note=lambda note: None), schedule=SCHEDULE,
            )  # fmt: skip
            with trainer.stopping():
                assert trainer.restore() is (first > 0)
                for k in range(first, last):
                    trainer.next_round(EXAMPLES, "fingerprint", k * 4 // num_rounds)
                    if k == first:
                        trainer.prepare(check=k == 0)
                    trainer.run_to_end()
                trainer.checkpoints.commit(trainer.state, trainer.window)
            history = trainer.recorder.history
            assert read_lines(run.metrics) == history
            trainer.recorder.close()
        if last != num_rounds:
            first = last
            with torch.no_grad():
                for parameter in policy.parameters():
                    parameter.zero_()  # the checkpoint has the weights
    return policy, history


def by_step(history, key):
    return {record["step"]: record[key] for record in history if key in record}


@pytest.mark.parametrize("stop_after", [None, 1])
@pytest.mark.parametrize("objective", [dpo(), bco(0.3)], ids=["dpo", "bco"])
def test_rounds_are_one_run(tmp_path, objective, stop_after):
    """bco also carries running means from step to step."""
    expected, history = train(tmp_path / "run", objective, 1)
    found, of_rounds = train(tmp_path / "rounds", objective, 2, stop_after)
    torch.testing.assert_close(weights(found), weights(expected), atol=1e-9, rtol=1e-9)
    for key in ("learning_rate", "num_tokens", "loss", "eval_loss"):
        assert by_step(of_rounds, key) == pytest.approx(by_step(history, key), rel=1e-9)
    assert [record["step"] for record in of_rounds] == [0, 1, 2, 2, 3, 4, 4], "nothing is evaluated twice"
