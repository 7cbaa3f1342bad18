"""Parts of objectives from plain values and back: `{name: log_ratio, beta: 0.1}` is `LogRatio(0.1)`.

Parts are named after their classes and their keys are the classes' fields, both read off the classes: a new part can be
written in YAML as soon as its module holds it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from math import isfinite
from types import ModuleType, NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from tiltlm import links, rewards
from tiltlm.core import ConfigError
from tiltlm.core.checks import prefix_errors
from tiltlm.links import Denoised, Link, Smoothed
from tiltlm.objectives.catalog.registry import nearest
from tiltlm.objectives.parts import adjustments, regularisers, statistics, weightings
from tiltlm.objectives.parts.adjustments import Adjustment
from tiltlm.objectives.parts.regularisers import Regulariser
from tiltlm.objectives.parts.statistics import Statistic
from tiltlm.objectives.parts.weightings import Weighting
from tiltlm.objectives.shapes import listwise
from tiltlm.objectives.shapes.listwise import ListLoss
from tiltlm.rewards import Reward

Kind = TypeVar("Kind")


def snake(kind: type) -> str:
    """The name of a part: its class's, in small letters."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", kind.__name__).lower()


def named(home: ModuleType, base: type = object) -> dict[str, type]:
    """The dataclasses of a module or package that are a `base`, by name; `_` begins what others are built on."""
    kinds = (kind for kind in vars(home).values() if isinstance(kind, type) and issubclass(kind, base))
    own = (kind for kind in kinds if is_dataclass(kind) and kind.__module__.startswith(home.__name__))
    return {snake(kind): kind for kind in own if not kind.__name__.startswith("_")}


ROLES: dict[Any, dict[str, type]] = {
    Reward: named(rewards),  # nothing but rewards is there, which are such by what they can do
    Link: named(links),
    Adjustment: named(adjustments, Adjustment),
    Regulariser: named(regularisers, Regulariser),
    Weighting: named(weightings, Weighting),
    Statistic: named(statistics, Statistic),
    ListLoss: named(listwise, ListLoss),
}
"""What can stand where an annotation says so, by name."""

IDLE_AT_ZERO = (Adjustment, Regulariser, Smoothed, Denoised)
"""Parts whose numbers are factors, shifts or shares: at 0 they do nothing."""


def construct(
    kind: type[Kind], values: Mapping[str, Any], place: str, called: str, reward: Reward | None = None
) -> Kind:
    """A dataclass from plain values of its fields.

    Args:
        kind: the class.
        values: field → plain value.
        place: its name in messages, such as `objective.link`.
        called: what a message says of it.
        reward: the objective's own, which stands where a part inside needs one and none is given.

    Raises:
        ConfigError: something is unknown, missing, of the wrong kind, impossible, or without effect.
    """
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            takes = ", ".join(known) or "nothing"
            raise ConfigError(
                f"{place}.{key}: {called} does not use it{nearest(key, known)} It takes {takes}",
                code="unknown_setting",
                key=f"{place}.{key}",
            )
    hints, arguments = get_type_hints(kind), dict[str, Any]()
    for key, field in known.items():
        here, hint = f"{place}.{key}", hints[key]
        if key in values:
            arguments[key] = _read(hint, values[key], here, arguments.get("reward", reward))
            if hint is float and arguments[key] == 0 and issubclass(kind, IDLE_AT_ZERO):
                raise ConfigError(
                    f"{here} is 0, with which {called} does nothing; leave it out", code="no_effect", key=here
                )
        elif reward is not None and (hint is Reward or hint in ROLES[Reward].values()):
            if hint is not Reward and not isinstance(reward, hint):
                raise ConfigError(
                    f"{place}: {called} goes with reward {snake(hint)}, not {snake(type(reward))}",
                    code="other_reward",
                    key=place,
                )
            arguments[key] = reward
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ConfigError(
                f"{here} is missing; {called} has no default for it{_way_out(hint)}", code="missing_setting", key=here
            )
    with prefix_errors(place):
        return kind(**arguments)


def _read(hint: Any, value: Any, place: str, reward: Reward | None) -> Any:
    """A plain value as the annotation of its field wants it."""
    kinds = get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        (inner,) = [kind for kind in kinds if kind is not NoneType]
        return None if value is None else _read(inner, value, place, reward)
    if get_origin(hint) is tuple:
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise ConfigError(f"{place} is {value!r}; a list is wanted: [{{name: …}}]", code="wrong_type", key=place)
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
            raise ConfigError(f"{place} is {value!r}; true or false is wanted", code="wrong_type", key=place)
        return value
    assert hint is float, f"{place}: a part cannot have a field of {hint}"
    return read_number(value, place)


def read_number(value: Any, place: str) -> float:
    """A finite number.

    Raises:
        ConfigError: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise ConfigError(f"{place} is {value!r}; a number is wanted", code="wrong_type", key=place)
    return float(value)


def _part(known: Mapping[str, type], value: Any, place: str, reward: Reward | None) -> Any:
    """A part from its name, or from a mapping with its name and fields."""
    values = {"name": value} if isinstance(value, str) else value
    if not isinstance(values, Mapping) or not isinstance(values.get("name"), str):
        raise ConfigError(
            f"{place} is {value!r}; a name is wanted, alone or as {{name: …}}. Known: {', '.join(known)}",
            code="wrong_type",
            key=place,
        )
    name = values["name"]
    if name not in known:
        raise ConfigError(
            f"{place}: no {name!r} there{nearest(name, known)} Known: {', '.join(known)}",
            code="unknown_name",
            key=place,
        )
    return construct(known[name], {k: v for k, v in values.items() if k != "name"}, place, name, reward)


def _way_out(hint: Any) -> str:
    """What could stand where something is missing."""
    for role in (hint, *get_args(hint)):
        if role in ROLES:
            return f". Known: {', '.join(ROLES[role])}" + ("; or null for none" if NoneType in get_args(hint) else "")
    return ""


def plain_fields(part: Any, reward: Reward | None = None) -> dict[str, Any]:
    """The fields of a part as plain values: what `construct` reads.

    Left out are empty lists, what is off unless given, and rewards inside that are the objective's own, `reward`.
    """
    found = {}
    for field in fields(part):
        value = getattr(part, field.name)
        is_off = value == () or (value is None and field.default is None)
        if not is_off and (reward is None or value != reward):
            found[field.name] = to_plain_value(value, reward)
    return found


def to_plain_value(value: Any, reward: Reward | None = None) -> Any:
    """A part, a list of them or a setting as plain values."""
    if isinstance(value, tuple):
        return [to_plain_value(item, reward) for item in value]
    return {"name": snake(type(value)), **plain_fields(value, reward)} if is_dataclass(value) else value
