"""Ranges of numbers that parts and knobs may have. A message begins with the name of what is wrong, so that whoever
knows where it stands can put the place before it: `beta is -1; …` becomes `objective.reward.beta is -1; …`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from math import inf, isfinite

from tiltlm.core.errors import ConfigError


def positive(**values: float) -> None:
    """Refuse numbers that are not above zero (nor finite)."""
    for name, value in values.items():
        if not 0 < value < inf:
            raise ConfigError(f"{name} is {value}; it must be a positive number")


def not_negative(**values: float) -> None:
    """Refuse numbers below zero (or not finite)."""
    for name, value in values.items():
        if not 0 <= value < inf:
            raise ConfigError(f"{name} is {value}; it must be zero or a positive number")


def finite(**values: float) -> None:
    """Refuse infinities and what is no number."""
    for name, value in values.items():
        if not isfinite(value):
            raise ConfigError(f"{name} is {value}; it must be a finite number")


def between(low: float, high: float, **values: float) -> None:
    """Refuse numbers outside [low, high]."""
    for name, value in values.items():
        if not low <= value <= high:
            raise ConfigError(f"{name} is {value}; it must lie between {low:g} and {high:g}")


def minority(**values: float) -> None:
    """Refuse a share of flipped labels that is none."""
    for name, value in values.items():
        if not 0 <= value < 0.5:
            raise ConfigError(f"{name} is {value}; it must be at least 0 and below 0.5, where labels say nothing")


@contextmanager
def under(place: str) -> Iterator[None]:
    """Put `place` before what a message begins with: `beta is -1` becomes `objective.reward.beta is -1`."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{place}.{error}") from None
