"""The methods by name: each a constructor of a dozen lines that chooses reward, link and data shape.

A constructor's signature is its knobs and their published defaults; its docstring is its formula and source. What it
is handed it consumes: anything else is refused.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin

from tiltlm.core import ConfigError
from tiltlm.core.checks import prefix_errors
from tiltlm.objectives.terms import Objective

Constructor = Callable[..., Objective]
Registered = TypeVar("Registered", bound=Constructor)

CATALOG: dict[str, Constructor] = {}
"""Every method by its name, in the order in which they are told."""


def register(constructor: Registered) -> Registered:
    """Enter a constructor into the catalogue under its own name."""
    CATALOG[constructor.__name__] = constructor
    return constructor


@dataclass(frozen=True)
class Knob:
    """One setting of a method, read off its constructor's signature."""

    name: str
    default: Any
    """`inspect.Parameter.empty` where the method has no default; None where it is off unless given."""
    choices: tuple[str, ...]
    """The words it can be; empty for a number."""

    @property
    def is_required(self) -> bool:
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
        """A configured value as the constructor takes it.

        Raises:
            ConfigError: it is neither a number nor one of the words.
        """
        if value is None and self.default is None:
            return None
        if self.choices:
            if value not in self.choices:
                raise ConfigError(
                    f"{self.name} is {value!r}; {method} knows {', '.join(self.choices)}",
                    code="unknown_name",
                    key=self.name,
                )
            return str(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(
                f"{self.name} is {value!r}; {method} needs a number there", code="wrong_type", key=self.name
            )
        return float(value)


def knobs(name: str) -> tuple[Knob, ...]:
    """The settings the method called `name` takes."""
    parameters = inspect.signature(constructor(name)).parameters.values()
    return tuple(Knob(p.name, p.default, _choices(p.annotation)) for p in parameters)


def _choices(annotation: Any) -> tuple[str, ...]:
    """The words of a `Literal`; nothing for `float` and `float | None`."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    assert annotation is float or set(get_args(annotation)) == {float, NoneType}, f"a knob cannot be {annotation}"
    return ()


def constructor(name: str) -> Constructor:
    """The constructor called `name`.

    Raises:
        ConfigError: there is none; the message names the nearest.
    """
    if name in CATALOG:
        return CATALOG[name]
    raise ConfigError(
        f"name: no objective {name!r}{nearest(name, CATALOG)} Known: {', '.join(CATALOG)}",
        code="unknown_name",
        key="name",
    )


def nearest(word: str, known: Iterable[str]) -> str:
    """How a message about an unknown word goes on: `; did you mean 'dpo'?` or a full stop."""
    near = get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else "."


def build(name: str, **settings: Any) -> Objective:
    """The objective called `name` with these knobs.

    Raises:
        ConfigError: unknown name, a knob the method does not consume, a missing one, or a value out of range.
    """
    return build_at("objective", name, settings)


def build_at(place: str, name: str, settings: Mapping[str, Any]) -> Objective:
    """`build`, in whose messages the objective is called `place`."""
    with prefix_errors(place):
        make, known = constructor(name), {k.name: k for k in knobs(name)}
        for key in settings:
            if key not in known:
                takes = ", ".join(known) or "none"
                near = get_close_matches(key, known, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise ConfigError(
                    f"{key}: {name} does not use it; the knobs of {name}: {takes}.{hint}",
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
