"""All of a run's settings as one frozen value: what a recipe receives, what a run directory keeps.

Each section's keys and defaults are written where they are used; this only puts the sections side by side.
"""

from dataclasses import dataclass, field
from pathlib import Path

from tiltlm.core import ConfigError
from tiltlm.data import DataSettings
from tiltlm.models import ModelSettings
from tiltlm.objectives import Objective, Spec, compose, describe_spec, notes_on, spell_out
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
            raise ConfigError(
                f"evaluation.num_prompts is {self.num_prompts}; it must be 0 or more",
                code="negative",
                key="evaluation.num_prompts",
            )
        for name in ("num_samples", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"evaluation.{name} is {getattr(self, name)}; it must be at least 1",
                    code="not_positive",
                    key=f"evaluation.{name}",
                )


@dataclass(frozen=True)
class RunSettings:
    """Everything a training run is told."""

    model: ModelSettings
    data: DataSettings
    objective: Spec
    """`name` and the knobs of that method; or its parts; or a weighted sum: see `objectives.composing`."""
    output: Path
    """The run directory."""
    reference: ReferenceSettings = field(default_factory=ReferenceSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)

    def build_objective(self) -> Objective:
        """The objective these settings describe."""
        return compose(self.objective)

    @property
    def objective_title(self) -> str:
        """The objective in a few words, without its settings."""
        return describe_spec(spell_out(self.objective))

    @property
    def objective_text(self) -> str:
        """The objective in words, with all its settings."""
        return describe_spec(spell_out(self.objective), with_numbers=True)

    @property
    def objective_notes(self) -> tuple[str, ...]:
        """What to tell a reader who knows the names used from another library."""
        return notes_on(self.objective)
