"""Language-model judges from settings: the model in this process, or the server that `judge.url` names."""

from collections.abc import Callable

from tiltlm.core.checks import positive, prefix_errors
from tiltlm.core.errors import ConfigError
from tiltlm.distributed import Ranks
from tiltlm.judging.judge import Comparer, Role, Scorer
from tiltlm.judging.judge_settings import SELF, JudgeSettings
from tiltlm.judging.language.judges import GradeJudge, PairwiseJudge, RubricJudge, statement_of
from tiltlm.judging.language.ladder import ServedModel
from tiltlm.judging.language.local import LocalModel
from tiltlm.judging.language.prices import read_price
from tiltlm.judging.language.question import Asker
from tiltlm.judging.language.reading import Sampling
from tiltlm.judging.language.server import Server, ServerSettings
from tiltlm.judging.language.templates import CRITERIA, LEVELS
from tiltlm.models import Policy

SERVED = (
    *("mode", "key_variable", "prices", "concurrency", "requests_per_minute", "tokens_per_minute", "request_timeout"),
    *("attempts", "temperature", "max_new_tokens", "num_draws"),
)
"""Settings that only a judge behind a server reads."""
HERE = ("max_tokens", "precision")
"""Settings that only a model in this process reads."""
RUBRIC = "rubric"
"""Column of a rubric, if the settings name neither items nor a column."""


def asker_of(settings: JudgeSettings) -> Asker:
    """Load the model, or prepare the connection to its server.

    Raises:
        ConfigError: A setting has no effect for the place where the model runs, or cannot work.
        ModelError: The model cannot be used.
    """
    if not settings.url:
        settings.refuse(SERVED, "judge.url is missing, so the model runs here")
        return LocalModel.load(str(settings.model), precision=settings.precision, max_tokens=settings.max_tokens)
    settings.refuse(HERE, "judge.url names a server")
    with prefix_errors("judge"):
        positive(
            **{
                name: float(value)
                for name in ("requests_per_minute", "tokens_per_minute", "request_timeout", "concurrency", "attempts")
                if (value := getattr(settings, name)) is not None
            },
            max_new_tokens=float(settings.max_new_tokens),
            num_draws=float(settings.num_draws),
        )
    server = Server(
        ServerSettings(
            url=settings.url,
            model=str(settings.model),
            key_variable=settings.key_variable,
            timeout=settings.request_timeout,
            attempts=settings.attempts,
            requests_per_minute=settings.requests_per_minute,
            tokens_per_minute=settings.tokens_per_minute,
        )
    )
    return ServedModel(
        server,
        mode=None if settings.mode == "auto" else settings.mode,
        sampling=Sampling(_temperature(settings), settings.max_new_tokens),
        price=read_price(settings.prices, str(settings.model)),
        concurrency=settings.concurrency,
    )


def judge_by_policy(settings: JudgeSettings, policy: Policy, ranks: Ranks) -> Comparer | Scorer:
    """Make a judge that trains, from the model that is trained, with the weights that it has now.

    Args:
        settings: What it asks, and how.
        policy: The model.
        ranks: The processes of the run. They must make the judge and ask it together, with equal questions.

    Raises:
        ConfigError: The kind of judge asks no language model, or a setting has no effect.
    """
    makers: dict[str, Callable[[JudgeSettings, Role, Asker], Comparer | Scorer]]
    makers = {"pairwise": pairwise, "grade": grade, "rubric": rubric}
    if settings.kind not in makers:
        raise ConfigError(
            f"judge.model is {SELF}, and a judge of kind {settings.kind} asks no language model; choose one of "
            f"{', '.join(makers)}",
            code="not_supported",
            key="judge.model",
        )
    settings.refuse((*SERVED, "url", "precision", "audit", "allow_self"), f"judge.model is {SELF}")
    judge: Comparer | Scorer = makers[settings.kind](
        settings, "train", LocalModel(policy, max_tokens=settings.max_tokens, ranks=ranks)
    )
    judge.scale = settings.scale or 1.0
    return judge


def _temperature(settings: JudgeSettings) -> float:
    """Return the temperature of written answers: several draws need one above 0."""
    default = 1.0 if settings.kind == "grade" else 0.0
    return default if settings.temperature is None else settings.temperature


def pairwise(settings: JudgeSettings, role: Role, asker: Asker | None = None) -> PairwiseJudge:
    """Make a judge that compares; without an asker, that of the settings."""
    criteria = settings.criteria or CRITERIA
    return PairwiseJudge(asker or asker_of(settings), criteria=criteria, ties=settings.ties, role=role)


def grade(settings: JudgeSettings, role: Role, asker: Asker | None = None) -> GradeJudge:
    """Make a judge that grades; without an asker, that of the settings."""
    return GradeJudge(
        asker or asker_of(settings),
        criteria=settings.criteria or CRITERIA,
        levels=settings.levels or LEVELS,
        num_draws=settings.num_draws,
        role=role,
    )


def rubric(settings: JudgeSettings, role: Role, asker: Asker | None = None) -> RubricJudge:
    """Make a judge that checks statements; without an asker, that of the settings.

    Raises:
        ConfigError: There are both statements and a column, or a statement has no text or weight 0.
    """
    if settings.items and settings.column:
        raise ConfigError(
            f"judge.items and judge.column={settings.column} both say where the statements are; remove one",
            code="conflict",
            key="judge.column",
        )
    try:
        for item in settings.items:
            statement_of(item)
    except ValueError as error:
        raise ConfigError(f"judge.items: {error}", code="wrong_type", key="judge.items") from error
    column = None if settings.items else settings.column or RUBRIC
    return RubricJudge(asker or asker_of(settings), items=settings.items, column=column, role=role)
