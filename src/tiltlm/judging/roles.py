"""Roles: a judge that makes training data never measures, and it is audited before it is trusted."""

from collections.abc import Iterable

from tiltlm.core.errors import ConfigError
from tiltlm.judging.judge import Judge
from tiltlm.judging.judge_settings import JudgeSettings


def check_roles(judges: Iterable[Judge]) -> None:
    """Require that no judge has both roles.

    Args:
        judges: All judges of a run, and those that made its data.

    Raises:
        ConfigError: Two judges with the same digest have different roles.
    """
    roles: dict[str, Judge] = {}
    for judge in judges:
        other = roles.setdefault(judge.digest, judge)
        if other.role != judge.role:
            raise ConfigError(
                f"the judge {judge.name} ({judge.digest}) would make training data and measure too, so the measurement "
                "would only say how well training has learned to please it; choose another judge for one of the two",
                code="same_judge",
                key="judge",
            )


RULES = frozenset({"verifier", "tests", "regex", "json_schema", "exact", "numeric", "gold"})
"""Kinds that are a rule and no estimate of one: what they say is right by definition, so they need no audit."""
PEOPLE = "people"
"""Kind of judge that others are audited against."""


def has_audit(settings: JudgeSettings) -> bool:
    """Return whether a judge can be trusted as it is: it was audited, is a rule, or is people."""
    return settings.audit is not None or settings.kind in RULES or settings.kind == PEOPLE


def check_trains(settings: JudgeSettings, judge: Judge, *, unaudited: bool) -> None:
    """Require that a judge may make training data.

    Args:
        settings: Settings of the judge.
        judge: The judge itself.
        unaudited: The user knows that it was not audited.

    Raises:
        ConfigError: It is an estimate and was not audited, or sees each pair in one order only.
    """
    if not settings.both_orders:
        raise ConfigError(
            "judge.both_orders is false: a judge that sees one order only would teach its preference for a position; "
            "set it to true for training data",
            code="one_order",
            key="judge.both_orders",
        )
    if not has_audit(settings) and not unaudited:
        raise ConfigError(
            f"the judge {judge.name} has no audit, so nobody knows how often it is right; give judge.audit=FILE, "
            "or say with --unaudited that the data may be used without one",
            code="no_audit",
            key="judge.audit",
        )
