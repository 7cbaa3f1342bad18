"""Checks of the numbers that parts and knobs of objectives are given, and suggestions for unknown names.

The message and the `key` of an error begin with the name of the number. A caller that knows where the number was set
puts that place before both with `prefix_errors`: `beta is -1` becomes `objective.reward.beta is -1`.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from math import inf, isfinite

from tiltlm.core.errors import ConfigError


def positive(**values: float) -> None:
    """Require 0 < value < ∞."""
    for name, value in values.items():
        if not 0 < value < inf:
            raise ConfigError(f"{name} is {value}; it must be a positive number", code="not_positive", key=name)


def not_negative(**values: float) -> None:
    """Require 0 ≤ value < ∞."""
    for name, value in values.items():
        if not 0 <= value < inf:
            raise ConfigError(f"{name} is {value}; it must be zero or a positive number", code="negative", key=name)


def finite(**values: float) -> None:
    """Require a finite number."""
    for name, value in values.items():
        if not isfinite(value):
            raise ConfigError(f"{name} is {value}; it must be a finite number", code="not_finite", key=name)


def between(low: float, high: float, **values: float) -> None:
    """Require low ≤ value ≤ high."""
    for name, value in values.items():
        if not low <= value <= high:
            raise ConfigError(
                f"{name} is {value}; it must lie between {low:g} and {high:g}", code="out_of_range", key=name
            )


def below_half(**values: float) -> None:
    """Require 0 ≤ value < 0.5: a rate of flipped labels; at 0.5 labels carry no information."""
    for name, value in values.items():
        if not 0 <= value < 0.5:
            raise ConfigError(
                f"{name} is {value}; it must be at least 0 and below 0.5, where labels carry no information",
                code="out_of_range",
                key=name,
            )


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: `; did you mean 'dpo'?` or a full stop.

    Only a name that differs by about one letter in five is suggested; another one would mislead.
    """
    near = get_close_matches(word, list(known), n=1, cutoff=0.75)
    return f"; did you mean {near[0]!r}?" if near else "."


@contextmanager
def prefix_errors(place: str) -> Iterator[None]:
    """Put `place` before message and key of a `ConfigError`: `beta is -1` becomes `objective.reward.beta is -1`."""
    try:
        yield
    except ConfigError as error:
        key = place if error.key is None else f"{place}.{error.key}"
        raise ConfigError(f"{place}.{error}", code=error.code, key=key) from None
