"""Parts of objectives from plain values and back: `{name: log_ratio, beta: 0.1}` is `LogRatio(0.1)`.

A part's name is its class's name and its keys are the class's fields. So a new part can be used in YAML as soon as its
module defines it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from math import isfinite
from types import ModuleType, NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from tiltlm import links, rewards
from tiltlm.core import ConfigError
from tiltlm.core.checks import prefix_errors, suggestion
from tiltlm.links import Denoised, Link, Smoothed
from tiltlm.objectives.parts import adjustments, regularisers, statistics, surrogates, weightings
from tiltlm.objectives.parts.adjustments import Adjustment
from tiltlm.objectives.parts.regularisers import Regulariser
from tiltlm.objectives.parts.statistics import Statistic
from tiltlm.objectives.parts.surrogates import Surrogate
from tiltlm.objectives.parts.weightings import Weighting
from tiltlm.objectives.shapes import listwise
from tiltlm.objectives.shapes.listwise import ListLoss
from tiltlm.rewards import Reward

Kind = TypeVar("Kind")


def snake(kind: type) -> str:
    """Return the name of a part: its class's name in snake case."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", kind.__name__).lower()


def named(home: ModuleType, base: type) -> dict[str, type]:
    """Return the dataclasses of a module or package that inherit `base`, by name, except private ones."""
    kinds = (kind for kind in vars(home).values() if isinstance(kind, type) and issubclass(kind, base))
    own = (kind for kind in kinds if is_dataclass(kind) and kind.__module__.startswith(home.__name__))
    return {snake(kind): kind for kind in own if not kind.__name__.startswith("_")}


ROLES: dict[Any, dict[str, type]] = {
    Reward: named(rewards, Reward),
    Link: named(links, Link),
    Adjustment: named(adjustments, Adjustment),
    Regulariser: named(regularisers, Regulariser),
    Weighting: named(weightings, Weighting),
    Statistic: named(statistics, Statistic),
    ListLoss: named(listwise, ListLoss),
    Surrogate: named(surrogates, Surrogate),
}
"""Base class in an annotation → the parts that can be given there, by name."""

IDLE_AT_ZERO = (Adjustment, Regulariser, Smoothed, Denoised)
"""Parts whose numbers are factors, shifts or shares, so that 0 has no effect."""


def construct(
    kind: type[Kind], values: Mapping[str, Any], place: str, called: str, reward: Reward | None = None
) -> Kind:
    """Build a dataclass from plain values of its fields.

    Args:
        kind: The class.
        values: Field → plain value.
        place: Its place in messages, such as `objective.link`.
        called: Its name in messages.
        reward: The objective's reward, the default for inner parts that need one.

    Raises:
        ConfigError: A value is unknown, missing, of the wrong kind, out of range, or without effect.
    """
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            takes = ", ".join(known) or "none"
            raise ConfigError(
                f"{place}.{key}: {called} has no such setting{suggestion(key, known)} Its settings: {takes}",
                code="unknown_setting",
                key=f"{place}.{key}",
            )
    hints, arguments = get_type_hints(kind), dict[str, Any]()
    for key, field in known.items():
        where, hint = f"{place}.{key}", hints[key]
        if key in values:
            arguments[key] = _read(hint, values[key], where, arguments.get("reward", reward))
            if hint is float and arguments[key] == 0 and issubclass(kind, IDLE_AT_ZERO):
                raise ConfigError(f"{where} is 0, so {called} has no effect; remove it", code="no_effect", key=where)
        elif reward is not None and (hint is Reward or hint in ROLES[Reward].values()):
            if hint is not Reward and not isinstance(reward, hint):
                raise ConfigError(
                    f"{place}: {called} needs reward {snake(hint)}, but the objective has {snake(type(reward))}",
                    code="other_reward",
                    key=place,
                )
            arguments[key] = reward
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ConfigError(
                f"{where} is missing; {called} has no default for it{_choices(hint)}", code="missing_setting", key=where
            )
    with prefix_errors(place):
        return kind(**arguments)


def _read(hint: Any, value: Any, place: str, reward: Reward | None) -> Any:
    """Convert a plain value to the type of its field."""
    kinds = get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        (inner,) = [kind for kind in kinds if kind is not NoneType]
        return None if value is None else _read(inner, value, place, reward)
    if get_origin(hint) is tuple:
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise ConfigError(f"{place} is {value!r}; it must be a list: [{{name: …}}]", code="wrong_type", key=place)
        return tuple(_read(kinds[0], item, f"{place}.{i}", reward) for i, item in enumerate(value))
    if hint in ROLES or is_dataclass(hint):
        return _part(ROLES[hint] if hint in ROLES else {snake(hint): hint}, value, place, reward)
    if get_origin(hint) is Literal:
        if value not in kinds or isinstance(value, bool):
            raise ConfigError(
                f"{place} is {value!r}; known: {', '.join(map(str, kinds))}", code="unknown_name", key=place
            )
        return kinds[kinds.index(value)]
    if hint is bool:
        if not isinstance(value, bool):
            raise ConfigError(f"{place} is {value!r}; it must be true or false", code="wrong_type", key=place)
        return value
    assert hint is float, f"{place}: a part cannot have a field of {hint}"
    return read_number(value, place)


def read_number(value: Any, place: str) -> float:
    """Return a value as a float.

    Raises:
        ConfigError: It is not a finite number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise ConfigError(f"{place} is {value!r}; it must be a number", code="wrong_type", key=place)
    return float(value)


def _part(known: Mapping[str, type], value: Any, place: str, reward: Reward | None) -> Any:
    """Build a part from its name, or from a mapping with its name and fields."""
    values = {"name": value} if isinstance(value, str) else value
    if not isinstance(values, Mapping) or not isinstance(values.get("name"), str):
        raise ConfigError(
            f"{place} is {value!r}; it must be a name or a mapping {{name: …}}. Known: {', '.join(known)}",
            code="wrong_type",
            key=place,
        )
    name = values["name"]
    if name not in known:
        raise ConfigError(
            f"{place}: there is no {name!r}{suggestion(name, known)} Known: {', '.join(known)}",
            code="unknown_name",
            key=place,
        )
    return construct(known[name], {k: v for k, v in values.items() if k != "name"}, place, name, reward)


def _choices(hint: Any) -> str:
    """Return the end of a message about a missing part: the parts that could be given."""
    for role in (hint, *get_args(hint)):
        if role in ROLES:
            return f". Known: {', '.join(ROLES[role])}" + ("; or null for none" if NoneType in get_args(hint) else "")
    return ""


def plain_fields(part: Any, reward: Reward | None = None) -> dict[str, Any]:
    """Return the fields of a part as plain values, as `construct` reads them.

    Empty lists, None at fields that are None by default, and inner rewards equal to `reward` are left out.
    """
    found = {}
    for field in fields(part):
        value = getattr(part, field.name)
        is_off = value == () or (value is None and field.default is None)
        if not is_off and (reward is None or value != reward):
            found[field.name] = to_plain_value(value, reward)
    return found


def to_plain_value(value: Any, reward: Reward | None = None) -> Any:
    """Return a part, a list of parts or a setting as plain values."""
    if isinstance(value, tuple):
        return [to_plain_value(item, reward) for item in value]
    return {"name": snake(type(value)), **plain_fields(value, reward)} if is_dataclass(value) else value
