"""The settings of a run: what a recipe receives, and what a run directory stores.

The keys and defaults of each section are defined in the package that uses them.

What the settings and this machine rule out is refused before a model or data are read. A setting that is not read is an
error and not a silence. It counts as set if it differs from its default, so the resolved configuration of a run, which
names every setting, can always be run again. `READ_IF` lists the settings that a run reads only under a condition that
depends on other sections; what one section can check alone, it checks itself. `SCORE_READS` and `PREVIEW_READS` list
what these commands read: they share their configuration file with training, so they refuse only overrides of others.
"""

from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from tiltlm.core import ConfigError
from tiltlm.core.checks import not_negative, prefix_errors
from tiltlm.core.logps import OF_REFERENCE
from tiltlm.core.notes import Note
from tiltlm.data import DataSettings
from tiltlm.models import ModelSettings
from tiltlm.models.folders import check_reachable, locate
from tiltlm.objectives import Objective, Spec, compose, describe_spec, notes_on, spell_out
from tiltlm.objectives.dry_run import toy_batch
from tiltlm.objectives.terms import reads_scores
from tiltlm.reference import ReferenceSettings
from tiltlm.reference.reference_settings import check_reference, no_adapter
from tiltlm.storage.files import check_writable
from tiltlm.training.optim.quantised import check_quantised
from tiltlm.training.recorder import check_trackers
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
        with prefix_errors("evaluation"):
            not_negative(num_prompts=float(self.num_prompts), seed=float(self.seed))
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
        """Build the objective.

        Raises:
            ConfigError: its parts do not fit: one reads scores and another one log-probabilities.
        """
        objective = compose(self.objective)
        objective(*toy_batch(objective))
        return objective

    @property
    def objective_title(self) -> str:
        """The objective in a few words, without numbers."""
        return describe_spec(spell_out(self.objective))

    @property
    def objective_text(self) -> str:
        """The objective in words, with all numbers."""
        return describe_spec(spell_out(self.objective), with_numbers=True)

    @property
    def objective_notes(self) -> tuple[Note, ...]:
        """Notes for readers who know the names from another library."""
        return notes_on(self.objective)


SCORE_READS = ("model", "data", "objective", "reference", "training.max_tokens")
PREVIEW_READS = (
    "model.path",
    "model.revision",
    "model.adapter",
    "model.trust_remote_code",
    "data",
    "objective",
)


@dataclass(frozen=True)
class ReadIf:
    """Settings that training reads only under a condition."""

    keys: tuple[str, ...]
    holds: Callable[[RunSettings, Objective], bool]
    otherwise: str
    """Why the settings have no effect where the condition does not hold, and the way out."""


def holds_out(settings: RunSettings) -> bool:
    """Return whether the settings ask for held-out data."""
    return settings.data.eval is not None or settings.data.eval_fraction != 0


SAMPLING = ("evaluation.num_samples", "evaluation.max_new_tokens", "evaluation.seed")
NUM_PROMPTS = "evaluation.num_prompts"

READ_IF = (
    ReadIf(
        ("data.eval_seed",),
        lambda settings, _: settings.data.eval is None and holds_out(settings),
        "it chooses the prompts of data.eval_fraction, and that is not set; set it",
    ),
    ReadIf(
        ("data.max_bad",),
        lambda settings, _: settings.data.on_bad == "drop",
        "data.on_bad=error allows no defective row",
    ),
    ReadIf(SAMPLING, lambda settings, _: settings.evaluation.num_prompts > 0, f"{NUM_PROMPTS} is 0"),
    ReadIf(
        (NUM_PROMPTS, *SAMPLING),
        lambda settings, _: holds_out(settings) or settings.evaluation.num_prompts == 0,
        "nothing is held out; set data.eval_fraction or data.eval",
    ),
    ReadIf(
        (NUM_PROMPTS, *SAMPLING),
        lambda settings, objective: not reads_scores(objective) or settings.evaluation.num_prompts == 0,
        "this objective trains a reward model, which gives no samples",
    ),
)
"""A setting is refused where one of its conditions does not hold. To switch off what is off is no mistake."""


def check_training(settings: RunSettings, objective: Objective) -> None:
    """Refuse what a training run cannot do or would not read. Folders are checked by `runs.check_contents`.

    Raises:
        ConfigError: a setting has no effect or needs held-out data, no evaluation measures `training.best_metric`, a
            package is missing, or a cache folder cannot be written.
    """
    refuse_without_effect(settings, objective)
    if not holds_out(settings):
        settings.training.check_held_out(0)
    if settings.training.best_metric is not None:
        from tiltlm.training.state import check_best_metric

        check_best_metric(settings.training, objective)
    check_trackers(settings.training.trackers)
    check_quantised(settings.training.optimizer)
    check_inputs(settings, objective)


def check_inputs(settings: RunSettings, objective: Objective) -> None:
    """Refuse what `prepare` could not do, in training and in scoring.

    Raises:
        ConfigError: the reference does not fit the objective, or a cache folder cannot be written.
        ModelError: a model folder is not there or cannot be used.
    """
    located = locate(settings.model.path, settings.model.adapter)
    check_reachable(located)
    check_reference(settings.reference, is_needed=objective.needs_reference, live=bool(objective.extras & OF_REFERENCE))
    if settings.reference.name == "base" and located.adapter is None and settings.model.lora is None:
        raise no_adapter()
    if isinstance(settings.data.cache, str):
        check_cache(Path(settings.data.cache).expanduser())


def check_cache(folder: Path) -> None:
    """Require that tokenised data can be cached in a folder.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        check_writable(folder)
    except OSError as error:
        raise ConfigError(
            f"data.cache: {folder} cannot be written: {error.strerror}. Name another folder, or set data.cache=false",
            code="not_writable",
            key="data.cache",
        ) from error


def refuse_without_effect(settings: RunSettings, objective: Objective) -> None:
    """Refuse a setting that differs from its default and would not be read.

    Raises:
        ConfigError: the first such setting.
    """
    for rule in READ_IF:
        for key in rule.keys:
            if is_set(settings, key) and not rule.holds(settings, objective):
                raise ConfigError(f"{key} has no effect: {rule.otherwise}, or remove {key}", code="no_effect", key=key)


def is_set(settings: RunSettings, key: str) -> bool:
    """Return whether a setting, given as `section.name`, differs from its default."""
    section_name, name = key.split(".")
    section = getattr(settings, section_name)
    return bool(getattr(section, name) != default_of(section, name))


def default_of(section: Any, name: str) -> Any:
    """Return the default of a field of a settings section."""
    (found,) = (f for f in fields(section) if f.name == name)
    return found.default if found.default_factory is MISSING else found.default_factory()
