"""The settings of a run: what a recipe receives, and what a run directory stores.

The keys and defaults of each section are defined in the package that uses them.

What the settings, this machine and the data's columns rule out is refused before anything heavy is imported:
`check_before_training` and `check_inputs` need no objective and so no torch; `check_training`, `check_scoring` and
`check_data` read the objective. Recipes receive settings that were checked.

A setting that is not read is an error and not a silence. It counts as set if it differs from its default, so the
resolved configuration of a run, which names every setting, can always be run again. `READ_IF` lists the settings that a
run reads only under a condition that depends on other sections; what one section can check alone, it checks itself.
`SCORE_READS` and `PREVIEW_READS` list what these commands read: they share their configuration file with training, so
they refuse only overrides of others.
"""

from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiltlm.core import ConfigError
from tiltlm.core.checks import not_negative, prefix_errors
from tiltlm.core.needs import Spec
from tiltlm.core.notes import Note
from tiltlm.data import Columns, DataSettings, check_sources, read_columns
from tiltlm.models import ModelSettings
from tiltlm.models.folders import check_reachable, locate
from tiltlm.reference import ReferenceSettings
from tiltlm.reference.reference_settings import check_reference, no_adapter
from tiltlm.sampling.engines import EngineSettings
from tiltlm.storage.files import check_writable
from tiltlm.training.packages import check_quantised, check_trackers
from tiltlm.training.training_settings import TrainingSettings

if TYPE_CHECKING:
    from tiltlm.objectives import Objective


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
    engine: EngineSettings = field(default_factory=EngineSettings)
    """What draws the samples of the evaluation."""

    def build_objective(self) -> "Objective":
        """Build the objective.

        Raises:
            ConfigError: its parts do not fit: one reads scores and another one log-probabilities.
        """
        from tiltlm.objectives import compose
        from tiltlm.objectives.dry_run import toy_batch

        objective = compose(self.objective)
        objective(*toy_batch(objective))
        return objective

    @property
    def objective_title(self) -> str:
        """The objective in a few words, without numbers."""
        from tiltlm.objectives import describe_spec, spell_out

        return describe_spec(spell_out(self.objective))

    @property
    def objective_text(self) -> str:
        """The objective in words, with all numbers."""
        from tiltlm.objectives import describe_spec, spell_out

        return describe_spec(spell_out(self.objective), with_numbers=True)

    @property
    def objective_notes(self) -> tuple[Note, ...]:
        """Notes for readers who know the names from another library."""
        from tiltlm.objectives import notes_on

        return notes_on(self.objective)


ROWS_READ = 20
"""Rows that preview reads for each row it shows, so that defective rows at the beginning leave enough to show."""

SCORE_READS = ("model", "data", "objective", "reference", "training.max_tokens")
PREVIEW_READS = (
    "model.path",
    "model.revision",
    "model.adapter",
    "model.trust_remote_code",
    *(f"data.{field.name}" for field in fields(DataSettings) if field.name != "max_ches"),
    "objective",
)


@dataclass(frozen=True)
class ReadIf:
    """Settings that training reads only under a condition."""

    keys: tuple[str, ...]
    holds: Callable[[RunSettings, "Objective"], bool]
    otherwise: str
    """Why the settings have no effect where the condition does not hold, and the way out."""


def holds_out(settings: RunSettings) -> bool:
    """Return whether the settings ask for held-out data."""
    return settings.data.eval is not None or settings.data.eval_fraction != 0


def gives_samples(objective: "Objective") -> bool:
    """Return whether the objective trains a policy, and not a reward model."""
    from tiltlm.objectives.terms import reads_scores

    return not reads_scores(objective)


ENGINE = tuple(f"engine.{field.name}" for field in fields(EngineSettings))
SAMPLING = (*ENGINE, "evaluation.num_samples", "evaluation.max_new_tokens", "evaluation.seed")
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
    ReadIf(
        ("data.max_ches",),
        lambda _, objective: objective.shape == "pairs" and gives_samples(objective),
        "this objective trains no policy on comparisons",
    ),
    ReadIf(SAMPLING, lambda settings, _: settings.evaluation.num_prompts > 0, f"{NUM_PROMPTS} is 0"),
    ReadIf(
        (NUM_PROMPTS, *SAMPLING),
        lambda settings, _: holds_out(settings) or settings.evaluation.num_prompts == 0,
        "nothing is held out; set data.eval_fraction or data.eval",
    ),
    ReadIf(
        (NUM_PROMPTS, *SAMPLING),
        lambda settings, objective: gives_samples(objective) or settings.evaluation.num_prompts == 0,
        "this objective trains a reward model, which gives no samples",
    ),
)
"""A setting is refused where one of its conditions does not hold. To switch off what is off is no mistake."""


def check_before_training(settings: RunSettings) -> None:
    """Refuse what a training run cannot do, whatever its objective.

    Raises:
        ConfigError: a setting needs held-out data, or a package or a login is missing.
    """
    if not holds_out(settings):
        settings.training.check_held_out(0)
    check_engine(settings.engine)
    check_trackers(settings.training.trackers)
    check_quantised(settings.training.optimizer)


def check_engine(engine: EngineSettings) -> None:
    """Refuse an engine that cannot draw the samples of an evaluation before and after training.

    Raises:
        ConfigError: it is `generate_batch`, or a server that does not get the trained weights; or a setting of the
            engine has no effect.
    """
    if engine.name == "generate_batch":
        raise ConfigError(
            "engine.name=generate_batch draws for `tiltlm sample` and loops; the samples of an evaluation come from "
            "engine.name=own or from a server (a URL)",
            code="not_supported",
            key="engine.name",
        )
    if not engine.is_server:
        return
    if engine.sync == "none":
        raise ConfigError(
            "engine.sync is none, so the server would not have the trained weights; set engine.sync=lora if an adapter "
            "is trained (model.lora), or engine.sync=full",
            code="needs_sync",
            key="engine.sync",
        )
    for name in ("logprobs", "score"):
        if getattr(engine, name) != type(engine).__dataclass_fields__[name].default:
            raise ConfigError(
                f"engine.{name} has no effect: the policy computes the log-probabilities of its samples; remove it",
                code="no_effect",
                key=f"engine.{name}",
            )


def check_inputs(settings: RunSettings) -> Columns:
    """Refuse inputs that cannot be used in training and scoring, whatever the objective.

    Returns:
        The columns of the data, for `check_data`.

    Raises:
        ConfigError: a setting of the data has no effect, or a cache folder cannot be written.
        DataError: a source is missing, or its columns are unknown or contradict each other.
        ModelError: a model folder is not there or cannot be used.
    """
    columns = read_columns(settings.data, settings.reference.reads_columns)
    check_model(settings)
    return columns


def check_sweep_inputs(points: Sequence[RunSettings]) -> list[Columns]:
    """Refuse what a run of a sweep cannot do, whatever its objective. Data that several runs share are read once.

    Returns:
        The columns of each run's data, for `check_data`.

    Raises:
        ConfigError: as `check_before_training` and `check_inputs`, and so are the others.
        DataError: a source is missing, or its columns are unknown or contradict each other.
        ModelError: a model folder is not there or cannot be used.
    """
    known: dict[str, Columns] = {}
    found = []
    for settings in points:
        check_before_training(settings)
        key = repr((settings.data, settings.reference.reads_columns))
        if key in known:
            check_model(settings)
        else:
            known[key] = check_inputs(settings)
        found.append(known[key])
    return found


def check_model(settings: RunSettings) -> None:
    """Refuse a model that is not there, and a cache of the data that cannot be written.

    Raises:
        ConfigError: the cache folder cannot be written.
        ModelError: a model folder is not there or cannot be used.
    """
    if isinstance(settings.data.cache, str):
        check_cache(Path(settings.data.cache).expanduser())
    check_reachable(locate(settings.model.path, settings.model.adapter))


def check_preview(settings: RunSettings, rows: int) -> None:
    """Refuse what cannot be shown: no data, unknown columns in its first rows, no model.

    Raises:
        ConfigError: a setting of the data has no effect.
        DataError: a source is missing, or its columns are unknown or contradict each other.
        ModelError: a model folder is not there or cannot be used.
    """
    read_columns(few_rows(settings.data, rows))
    check_reachable(locate(settings.model.path, settings.model.adapter))


def few_rows(data: DataSettings, rows: int) -> DataSettings:
    """Return settings that read enough rows to show some, whatever share of them is defective."""
    return replace(data, limit=min(data.limit or ROWS_READ * rows, ROWS_READ * rows), max_bad=1.0)


def check_training(settings: RunSettings, objective: "Objective") -> None:
    """Refuse settings that a training run with this objective would not read, or could not follow.

    Raises:
        ConfigError: a setting has no effect, no evaluation measures `training.best_metric`, or the reference does not
            fit the objective.
        ModelError: the reference is a folder that cannot be used.
    """
    refuse_without_effect(settings, objective)
    if settings.training.best_metric is not None:
        from tiltlm.training.state import check_best_metric

        check_best_metric(settings.training, objective)
    check_objectives_reference(settings, objective)


def check_scoring(settings: RunSettings, objective: "Objective") -> None:
    """Refuse a reference that scoring cannot use.

    Raises:
        ConfigError: the objective needs a reference and none is named, or the reference does not fit, or would move.
        ModelError: the reference is a folder that cannot be used.
    """
    if objective.needs_reference and settings.reference.is_auto:
        raise ConfigError(
            f"{settings.objective_title} compares the policy with a reference, and none is named. Give --reference and "
            "a model folder, base (adapters off), columns (of the data) or initial (the policy itself)",
            code="needs_reference",
            key="reference.name",
        )
    if settings.reference.moves:
        raise ConfigError(
            "reference.name is 'moving', but scoring takes no steps and the reference would not move; use 'initial'",
            code="no_effect",
            key="reference.name",
        )
    check_objectives_reference(settings, objective)


def check_objectives_reference(settings: RunSettings, objective: "Objective") -> None:
    """Refuse a reference that does not fit the objective.

    Raises:
        ConfigError: it does not fit, or its store cannot be written.
        ModelError: it is a folder that cannot be used.
    """
    from tiltlm.core.logps import OF_REFERENCE

    check_reference(settings.reference, is_needed=objective.needs_reference, live=bool(objective.extras & OF_REFERENCE))
    trained = settings.model
    if settings.reference.name == "base" and not (trained.lora or locate(trained.path, trained.adapter).adapter):
        raise no_adapter()


def check_data(objective: "Objective", columns: Columns) -> None:
    """Refuse data whose columns or first rows do not serve the objective.

    Raises:
        ConfigError: settings contradict each other.
        DataError: the data cannot be used.
    """
    check_sources(columns, objective.shape, **columns_read(objective))


def columns_read(objective: "Objective") -> dict[str, Any]:
    """Return what an objective reads beside responses, as keywords of `load_data` and `check_sources`."""
    return {
        "needs": objective.needs,
        "uses": objective.uses,
        "needs_partners": objective.statistic is not None and objective.statistic.reads == "partners",
    }


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


def refuse_without_effect(settings: RunSettings, objective: "Objective") -> None:
    """Refuse a setting that differs from its default and would not be read.

    Raises:
        ConfigError: the first such setting.
    """
    for rule in READ_IF:
        for key in rule.keys:
            if is_set(settings, key) and not rule.holds(settings, objective):
                raise ConfigError(f"{key} has no effect: {rule.otherwise}, or remove {key}", code="no_effect", key=key)


def is_set(settings: Any, key: str) -> bool:
    """Return whether a setting of settings in sections, given as `section.name`, differs from its default."""
    section_name, name = key.split(".")
    section = getattr(settings, section_name)
    return bool(getattr(section, name) != default_of(section, name))


def default_of(section: Any, name: str) -> Any:
    """Return the default of a field of a settings section."""
    (found,) = (f for f in fields(section) if f.name == name)
    return found.default if found.default_factory is MISSING else found.default_factory()
