"""A small training run on toy data, that may be killed."""

from support.toy_training import Killed, ToyPolicy, ToyReference, rows
from tiltlm.objectives import dpo
from tiltlm.runs.directory import RunDirectory
from tiltlm.training.loop import train_loop
from tiltlm.training.recorder import Listener
from tiltlm.training.training_settings import TrainingSettings

TRAIN, HELD_OUT = rows(10), rows(5, seed=1)


class Run:
    """A run in a new directory, up to its end or to a kill."""

    def __init__(
        self, folder, objective=None, resume=False, kill_after=None, poisoned=(), policy=None, note=None, **settings
    ):
        self.notes = []
        self.policy = policy or ToyPolicy(seed=1)
        self.policy.poisoned = set(poisoned)
        self.objective = objective or dpo()
        reference = ToyReference(self.policy) if self.objective.needs_reference else None
        knobs = {"num_epochs": 2, "batch_size": 4, "max_tokens": 40, "learning_rate": 0.02, "save_every": 2} | settings

        def step(done, total):
            if done == kill_after:
                raise Killed

        def say(text):
            self.notes.append(text)
            if note is not None:
                note(text)

        with RunDirectory.open(folder, resume=resume) as run:
            self.metrics = run.metrics
            self.path = run
            self.result = train_loop(
                self.policy, TRAIN, HELD_OUT, self.objective, reference, TrainingSettings(**knobs), run, "fingerprint",
                resume=resume, listener=Listener(note=say, step=step),
            )  # fmt: skip
