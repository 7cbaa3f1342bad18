"""All of a run's settings as one frozen value: what a recipe receives, what a run directory keeps.

Each section's keys and defaults are written where they are used; this only puts the sections side by side.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tiltlm.core import ConfigError
from tiltlm.data import DataSettings
from tiltlm.logprobs import ModelSettings
from tiltlm.objectives import Objective, build
from tiltlm.reference import ReferenceSettings
from tiltlm.training import TrainingSettings


@dataclass(frozen=True)
class EvaluationSettings:
    """What is measured before and after training, beside the held-out pairs."""

    num_prompts: int = 32
    """Held-out prompts to sample responses for, before and after; 0: none."""
    num_samples: int = 2
    """Responses sampled for each of them."""
    max_new_tokens: int = 128
    """Longest sampled response; what is cut there is reported."""
    seed: int = 0
    """Of the samples."""

    def __post_init__(self) -> None:
        if self.num_prompts < 0:
            raise ConfigError(f"evaluation.num_prompts is {self.num_prompts}; it must be 0 or more")
        for name in ("num_samples", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"evaluation.{name} is {getattr(self, name)}; it must be at least 1")


@dataclass(frozen=True)
class RunSettings:
    """Everything a training run is told."""

    model: ModelSettings
    data: DataSettings
    objective: Mapping[str, Any]
    """`name` and the knobs of that method."""
    output: Path
    """The run directory."""
    reference: ReferenceSettings = field(default_factory=ReferenceSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)

    def build_objective(self) -> Objective:
        """The objective these settings name."""
        return build(**self.objective)
