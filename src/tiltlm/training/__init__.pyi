from .guards import Interrupted
from .loop import Trainer, TrainingResult, build_trainer, train_loop
from .recorder import Listener
from .state import Origin
from .step import Stepper, StepResult
from .training_settings import TrainingSettings, default_learning_rate

__all__ = [
    "Interrupted",
    "Listener",
    "Origin",
    "StepResult",
    "Stepper",
    "Trainer",
    "TrainingResult",
    "TrainingSettings",
    "build_trainer",
    "default_learning_rate",
    "train_loop",
]
