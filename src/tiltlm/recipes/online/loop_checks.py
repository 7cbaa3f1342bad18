"""What a loop refuses before its first draw because its settings do not fit together."""

from collections.abc import Mapping

from tiltlm.core import ConfigError
from tiltlm.core.needs import Shape
from tiltlm.objectives import Objective
from tiltlm.objectives.shapes.rollouts import PolicyGradient
from tiltlm.online.constitution import DEFAULT, read_constitution
from tiltlm.online.examples.corrections import UNBIASED
from tiltlm.recipes.online.loop_run import LoopRunSettings
from tiltlm.recipes.run_settings import is_set
from tiltlm.sampling import SamplingSettings

ALSO: Mapping[Shape, tuple[Shape, ...]] = {"pairs": ("lists", "demonstrations")}
"""Shape of a rule → other shapes that its examples have too: lists if samples have scores, and their chosen samples."""


def check_loop(settings: LoopRunSettings, objective: Objective) -> None:
    """Refuse what the rule for examples, the objective and the sampling rule out together.

    Raises:
        ConfigError: they do not fit.
    """
    kind = settings.examples.kind
    if objective.shape not in (kind.shape, *ALSO.get(kind.shape, ())):
        raise ConfigError(
            f"examples.rule={settings.examples.rule} makes {kind.shape}, and the objective trains on "
            f"{objective.shape}; change one of the two",
            code="wrong_data_shape",
            key="examples.rule",
        )
    check_samples(settings)
    if settings.sampling.temperature == 0 and settings.loop.n > 1:
        raise ConfigError(
            "sampling.temperature is 0, so all samples of a prompt would be equal; set it above 0",
            code="out_of_range",
            key="sampling.temperature",
        )
    for name in ("best_metric", "early_stopping", "eval_every", "save_every", "max_steps"):
        if is_set(settings, f"training.{name}"):
            raise ConfigError(
                f"training.{name} has no effect: nothing is held out, and loop.rounds and loop.save_every say how long "
                "a loop is and when it saves; remove it",
                code="no_effect",
                key=f"training.{name}",
            )
    if settings.loop.reference != "fixed" and settings.reference.name != "auto":
        raise ConfigError(
            f"reference.name={settings.reference.name} has no effect: loop.reference is {settings.loop.reference}; "
            "remove one of the two",
            code="no_effect",
            key="reference.name",
        )
    if isinstance(objective, PolicyGradient):
        check_policy_gradient(settings, objective)
    check_without_effect(settings, objective)
    check_refills(settings)
    if settings.learned_judge.labels:
        check_learned_judge(settings)


def check_samples(settings: LoopRunSettings) -> None:
    """Refuse samples of a prompt that the rule for examples cannot use: too few, too many, or of the wrong models.

    Raises:
        ConfigError: they do not fit.
    """
    kind, rivals = settings.examples.kind, settings.rivals
    n = settings.loop.n + len(rivals.origins)
    if n < kind.min_samples or (kind.max_samples is not None and n > kind.max_samples):
        needed = f"exactly {kind.max_samples}" if kind.max_samples else f"at least {kind.min_samples}"
        more = f", {len(rivals.origins)} of them rivals" if rivals.origins else ""
        raise ConfigError(
            f"each prompt has {n} samples{more}, and examples.rule={settings.examples.rule} needs {needed}; change "
            "loop.n or rivals.n",
            code="too_few_samples" if n < kind.min_samples else "too_many_samples",
            key="loop.n",
        )
    if kind.rivals is not None and (bool(rivals.origins) != bool(kind.rivals) or set(rivals.origins) - {*kind.rivals}):
        wanted = f"needs rivals of {' or '.join(kind.rivals)}" if kind.rivals else "reads samples of the policy only"
        raise ConfigError(
            f"examples.rule={settings.examples.rule} {wanted}, and there are {len(rivals.origins)} of "
            f"{' and '.join(dict.fromkeys(rivals.origins)) or 'none'}; change rivals.n, rivals.mix or rivals.data",
            code="wrong_rivals",
            key="rivals.n",
        )
    if rivals.revisions:
        read_constitution(rivals.constitution or DEFAULT)
    if rivals.revisions and settings.loop.n > 1:
        raise ConfigError(
            f"loop.n is {settings.loop.n}, and rivals.revisions revises one sample of each prompt; set loop.n=1",
            code="too_many_samples",
            key="loop.n",
        )


def check_refills(settings: LoopRunSettings) -> None:
    """Refuse refills beside what is made for one batch of prompts a round, and a best round that is not kept.

    Raises:
        ConfigError: there is a conflict.
    """
    for key, is_set_too in (("rivals.n", settings.rivals.origins), ("loop.past_rounds", settings.loop.past_rounds)):
        if settings.loop.refills and is_set_too:
            raise ConfigError(
                f"loop.refills and {key} exclude each other; remove one of the two", code="conflict", key="loop.refills"
            )
    if settings.stop.held_out_falls and settings.loop.save_every > 1:
        raise ConfigError(
            f"loop.save_every is {settings.loop.save_every}, and stop.held_out_falls goes back to the policy of the "
            "best round, which must be saved; set loop.save_every=1",
            code="conflict",
            key="loop.save_every",
        )


def check_without_effect(settings: LoopRunSettings, objective: Objective) -> None:
    """Refuse settings of policy gradients that nothing reads.

    Raises:
        ConfigError: there is one.
    """
    gradient = objective if isinstance(objective, PolicyGradient) else None
    if settings.loop.refills and (gradient is None or settings.loop.n < 2):
        raise ConfigError(
            "loop.refills has no effect: only samples of a policy gradient that are compared within a prompt can "
            "be without a signal; remove it",
            code="no_effect",
            key="loop.refills",
        )
    if settings.correction.kind != "none" and (
        gradient is None or (settings.engine.is_exact and not settings.loop.past_rounds)
    ):
        why = "all samples are of the policy itself" if gradient else "the objective is no policy gradient"
        raise ConfigError(f"correction.kind has no effect: {why}; remove it", code="no_effect", key="correction.kind")
    if settings.loop.kl_target is not None and (gradient is None or gradient.kl is None):
        raise ConfigError(
            "loop.kl_target has no effect: the objective is no policy gradient with a KL, whose coefficient could be "
            "steered; remove it",
            code="no_effect",
            key="loop.kl_target",
        )
    for name in ("value_learning_rate", "shares_body"):
        if is_set(settings, f"critic.{name}") and (gradient is None or gradient.critic is None):
            raise ConfigError(
                f"critic.{name} has no effect: the objective has no critic; remove it, or use objective.name=ppo",
                code="no_effect",
                key=f"critic.{name}",
            )


def check_learned_judge(settings: LoopRunSettings) -> None:
    """Refuse what a learned judge cannot label.

    Raises:
        ConfigError: the rule needs no judge or makes no pairs, there are rivals, or earlier rounds train again.
    """
    kind, rule = settings.examples.kind, settings.examples.rule
    if not kind.needs_judge:
        raise ConfigError(
            f"learned_judge.labels has no effect: examples.rule={rule} needs no judge; remove it",
            code="no_effect",
            key="learned_judge.labels",
        )
    if kind.shape != "pairs":
        raise ConfigError(
            f"examples.rule={rule} makes {kind.shape}, and a learned judge labels pairs only: it learns from "
            "comparisons within a prompt, so its scores mean nothing beyond them. Use a rule of pairs, such as "
            "examples.rule=pair",
            code="not_supported",
            key="examples.rule",
        )
    if settings.rivals.origins:
        raise ConfigError(
            f"there are rivals of {' and '.join(dict.fromkeys(settings.rivals.origins))}, and a learned judge labels "
            "samples of the policy; remove the settings of rivals, or raise loop.n",
            code="not_supported",
            key="rivals.n",
        )
    if settings.loop.past_rounds:
        raise ConfigError(
            f"loop.past_rounds is {settings.loop.past_rounds}, and the labels of earlier rounds are those of a learned "
            "judge that knew less; remove it (learned_judge.earlier_rounds is about the labels of the judge)",
            code="not_supported",
            key="loop.past_rounds",
        )


def check_policy_gradient(settings: LoopRunSettings, objective: PolicyGradient) -> None:
    """Refuse samples that are no draws of the policy itself, and a teacher that is the policy.

    Raises:
        ConfigError: they do not fit.
    """
    sampling = settings.sampling
    for name in ("temperature", "top_k", "top_p", "min_p"):
        if getattr(sampling, name) != getattr(SamplingSettings, name):
            raise ConfigError(
                f"sampling.{name} is {getattr(sampling, name)}; a policy gradient needs draws of the policy itself, at "
                "temperature 1 without truncation. Remove the setting",
                code="not_own_distribution",
                key=f"sampling.{name}",
            )
    if settings.loop.past_rounds and settings.correction.kind not in UNBIASED:
        raise ConfigError(
            f"loop.past_rounds is {settings.loop.past_rounds}; a policy gradient needs samples of the policy that it "
            "trains, and those are of earlier ones. Weigh them by correction.kind=sequence_truncate, or remove the "
            "setting",
            code="needs_correction",
            key="loop.past_rounds",
        )
    if objective.critic is not None and (settings.loop.past_rounds or settings.rivals.origins):
        key = "loop.past_rounds" if settings.loop.past_rounds else "rivals.n"
        raise ConfigError(
            f"objective has a critic, whose advantages need samples of the policy itself, and {key} adds others; "
            "remove the setting, or use an objective without a critic, such as grpo",
            code="conflict",
            key=key,
        )
    if objective.critic is not None and settings.loop.reference != "fixed":
        raise ConfigError(
            f"loop.reference is {settings.loop.reference}, and a critic is beside a fixed reference only; remove it",
            code="not_supported",
            key="loop.reference",
        )
    if settings.examples.rule != "unscored":
        return
    if objective.kl is None:
        raise ConfigError(
            "examples.rule is unscored, so all advantages are 0, and the objective has no KL: nothing would be trained",
            code="zero_loss",
            key="examples.rule",
        )
    if settings.reference.name in ("auto", "initial") and settings.loop.reference == "fixed":
        raise ConfigError(
            "examples.rule is unscored, so only the KL to the reference trains, and that is the policy itself; give "
            "the teacher: reference.name=FOLDER",
            code="needs_teacher",
            key="reference.name",
        )
