"""Rounds that hand on optimiser, schedule, state and recorder are one run."""

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


def train(folder, objective, num_rounds, handed_on=("optimizer", "schedule", "state", "recorder")):
    """Return the policy, and the records of metrics.jsonl, after four steps in so many rounds."""
    policy = ToyPolicy(seed=1, dtype=torch.float64)
    reference, trainer = ToyReference(policy), None
    with RunDirectory.open(folder) as run:
        for _ in range(num_rounds):
            carried = {name: getattr(trainer, name) for name in handed_on} if trainer else {"schedule": SCHEDULE}
            trainer = build_trainer(
                policy, EXAMPLES, HELD_OUT, objective, reference, replace(SETTINGS, num_epochs=4 // num_rounds), run,
                "fingerprint", listener=Listener(note=lambda note: None), **carried,
            )  # fmt: skip
            result = trainer.run()
        assert read_lines(run.metrics) == result.history
    return policy, result.history


def by_step(history, key):
    return {record["step"]: record[key] for record in history if key in record}


@pytest.mark.parametrize("objective", [dpo(), bco(0.3)], ids=["dpo", "bco"])
def test_rounds_are_one_run(tmp_path, objective):
    """bco also carries running means from step to step."""
    expected, history = train(tmp_path / "run", objective, 1)
    found, of_rounds = train(tmp_path / "rounds", objective, 2)
    torch.testing.assert_close(weights(found), weights(expected), atol=1e-9, rtol=1e-9)
    for key in ("learning_rate", "num_tokens", "loss", "eval_loss"):
        assert by_step(of_rounds, key) == pytest.approx(by_step(history, key), rel=1e-9)
    assert [record["step"] for record in of_rounds] == [0, 1, 2, 2, 3, 4, 4], "nothing is evaluated twice"


def test_a_round_with_a_new_optimiser_is_another_run(tmp_path):
    expected, _ = train(tmp_path / "run", dpo(), 2)
    found, _ = train(tmp_path / "other", dpo(), 2, ("schedule", "state", "recorder"))
    assert (weights(found) - weights(expected)).abs().max() > 1e-3
