"""The catalogue of methods: names, and constructors that choose reward, link and data shape.

A constructor's parameters are the method's knobs with their published defaults. Its docstring has formula and source. A
setting that a method does not use is an error.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin

from tiltlm.core import ConfigError
from tiltlm.core.checks import prefix_errors, suggestion
from tiltlm.objectives.terms import Objective

Constructor = Callable[..., Objective]
Registered = TypeVar("Registered", bound=Constructor)

CATALOG: dict[str, Constructor] = {}
"""Every method by its name, in the order in which they are listed."""


def register(constructor: Registered) -> Registered:
    """Add a constructor to the catalogue under its own name."""
    CATALOG[constructor.__name__] = constructor
    return constructor


@dataclass(frozen=True)
class Knob:
    """One setting of a method, from its constructor's signature."""

    name: str
    default: Any
    """`inspect.Parameter.empty` if the method has no default; None if it is off by default."""
    choices: tuple[str, ...]
    """The allowed values; empty for a number."""

    @property
    def is_required(self) -> bool:
        """True if there is no default."""
        return self.default is inspect.Parameter.empty

    @property
    def shown(self) -> str:
        """The default as text."""
        if self.is_required:
            return "no default"
        if self.default is None:
            return "off"
        return str(self.default) if self.choices else f"{self.default:g}"

    def read(self, value: Any, method: str) -> float | str | None:
        """Return a configured value as the constructor takes it.

        Raises:
            ConfigError: It is neither a number nor one of the allowed values.
        """
        if value is None and self.default is None:
            return None
        if self.choices:
            if value not in self.choices:
                raise ConfigError(
                    f"{self.name} is {value!r}; for {method} it must be one of {', '.join(self.choices)}",
                    code="unknown_name",
                    key=self.name,
                )
            return str(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(
                f"{self.name} is {value!r}; for {method} it must be a number", code="wrong_type", key=self.name
            )
        return float(value)


def knobs(name: str) -> tuple[Knob, ...]:
    """Return the settings of the method called `name`."""
    parameters = inspect.signature(constructor(name)).parameters.values()
    return tuple(Knob(p.name, p.default, _choices(p.annotation)) for p in parameters)


def _choices(annotation: Any) -> tuple[str, ...]:
    """Return the values of a `Literal`; none for `float` and `float | None`."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    assert annotation is float or set(get_args(annotation)) == {float, NoneType}, f"a knob cannot be {annotation}"
    return ()


def constructor(name: str) -> Constructor:
    """Return the constructor called `name`.

    Raises:
        ConfigError: There is none; the message suggests a similar name.
    """
    if name in CATALOG:
        return CATALOG[name]
    raise ConfigError(
        f"name: there is no objective {name!r}{suggestion(name, CATALOG)} Known: {', '.join(CATALOG)}",
        code="unknown_name",
        key="name",
    )


def build(name: str, **settings: Any) -> Objective:
    """Build the objective called `name` with these knobs.

    Raises:
        ConfigError: The name is unknown, or a knob is unknown, missing or out of range.
    """
    return build_at("objective", name, settings)


def build_at(place: str, name: str, settings: Mapping[str, Any]) -> Objective:
    """Build as `build` does; in error messages the objective is called `place`."""
    with prefix_errors(place):
        make, known = constructor(name), {k.name: k for k in knobs(name)}
        for key in settings:
            if key not in known:
                takes = ", ".join(known) or "none"
                raise ConfigError(
                    f"{key}: {name} has no such setting{suggestion(key, known)} Its settings: {takes}",
                    code="unknown_setting",
                    key=key,
                )
        values = {key: known[key].read(value, name) for key, value in settings.items()}
        for k in known.values():
            if k.is_required and k.name not in settings:
                raise ConfigError(
                    f"{k.name} is missing; {name} has no default for it", code="missing_setting", key=k.name
                )
        return make(**values)
