"""One loop for all methods: steps that are exact however they are cut, checkpoints that are whole, runs that go on."""

from tiltlm.training.guards import Interrupted
from tiltlm.training.loop import TrainingResult, train_loop
from tiltlm.training.recorder import Listener
from tiltlm.training.step import Stepper, StepResult
from tiltlm.training.training_settings import TrainingSettings, default_learning_rate

__all__ = [
    "Interrupted",
    "Listener",
    "StepResult",
    "Stepper",
    "TrainingResult",
    "TrainingSettings",
    "default_learning_rate",
    "train_loop",
]
