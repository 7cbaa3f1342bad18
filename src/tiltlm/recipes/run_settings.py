"""The settings of a run: what a recipe receives, and what a run directory stores.

The keys and defaults of each section are defined in the package that uses them.
"""

from dataclasses import dataclass, field
from pathlib import Path

from tiltlm.core import ConfigError
from tiltlm.data import DataSettings
from tiltlm.models import ModelSettings
from tiltlm.objectives import Objective, Spec, compose, describe_spec, notes_on, spell_out
from tiltlm.reference import ReferenceSettings
from tiltlm.training.training_settings import TrainingSettings


@dataclass(frozen=True)
class EvaluationSettings:
    """Sampling before and after training, in addition to the measurement on held-out data."""

    num_prompts: int = 32
    """Number of held-out prompts to sample responses for. 0: no samples."""
    num_samples: int = 2
    """Responses to sample for each prompt."""
    max_new_tokens: int = 128
    """A sampled response that has not ended is cut after this many tokens; the share of cut ones is reported."""
    seed: int = 0
    """Seed of the samples."""

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
    """All settings of a training run."""

    model: ModelSettings
    data: DataSettings
    objective: Spec
    """The `name` of a method with its settings; or parts, `{data: pairs, reward: ..., link: ...}`; or a weighted sum,
    `{sum: [...]}`."""
    output: Path
    """The run directory: a new or empty folder."""
    reference: ReferenceSettings = field(default_factory=ReferenceSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)

    def build_objective(self) -> Objective:
        """Build the objective."""
        return compose(self.objective)

    @property
    def objective_title(self) -> str:
        """The objective in a few words, without numbers."""
        return describe_spec(spell_out(self.objective))

    @property
    def objective_text(self) -> str:
        """The objective in words, with all numbers."""
        return describe_spec(spell_out(self.objective), with_numbers=True)

    @property
    def objective_notes(self) -> tuple[str, ...]:
        """Notes for readers who know the names from another library."""
        return notes_on(self.objective)
