"""A run whose policy sends its own process a signal."""

import signal
from dataclasses import replace

from support.toy_training import ToyPolicy, ToyReference, rows
from tiltlm.objectives import dpo
from tiltlm.runs.directory import RunDirectory
from tiltlm.storage.files import read_lines
from tiltlm.training.loop import train_loop
from tiltlm.training.recorder import Listener
from tiltlm.training.training_settings import TrainingSettings

SETTINGS = TrainingSettings(num_epochs=2, batch_size=4, max_tokens=40, learning_rate=0.02, save_every=100, eval_every=2)


class Signalled(ToyPolicy):
    """Sends its own process a signal during one of its forwards."""

    def __init__(self, at: int = 0, signum: int = signal.SIGTERM) -> None:
        super().__init__(seed=1)
        self.at, self.signum = at, signum

    def forward(self, forest):
        responses = super().forward(forest)
        if self.num_forwards == self.at:
            signal.raise_signal(self.signum)
        return responses


def train(folder, policy, resume=False, **settings):
    with RunDirectory.open(folder, resume=resume) as run:
        train_loop(
            policy, rows(10), rows(6, seed=1), dpo(), ToyReference(policy), replace(SETTINGS, **settings), run,
            "fingerprint", resume=resume, listener=Listener(note=lambda note: None),
        )  # fmt: skip
    return read_lines(folder / "metrics.jsonl")
