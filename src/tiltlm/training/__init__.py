"""One loop for all methods: steps that are exact however they are cut, checkpoints that are whole, runs that go on."""

from tiltlm.training.guards import Interrupted
from tiltlm.training.loop import TrainingResult, train_loop
from tiltlm.training.metrics import Listener
from tiltlm.training.settings import TrainingSettings, default_learning_rate
from tiltlm.training.step import Outcome, Stepper

__all__ = [
    "Interrupted",
    "Listener",
    "Outcome",
    "Stepper",
    "TrainingResult",
    "TrainingSettings",
    "default_learning_rate",
    "train_loop",
]
