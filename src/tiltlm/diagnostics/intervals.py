"""Intervals: how far an estimate may be from the truth, given the units that were drawn independently.

The unit is the prompt (or a cluster of prompts), never the row: several responses to one prompt are dependent, and
resampling rows would make every interval too narrow. Everything is seeded and can be repeated.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tiltlm.core.errors import ConfigError

Floats = NDArray[np.float64]

RESAMPLES = 10_000
_CHUNK = 2_000_000  # resampled values held at once: 16 MB of float64


@dataclass(frozen=True)
class Interval:
    """An estimate with the range that holds the truth in `level` of all repetitions."""

    estimate: float
    low: float
    """NaN, like `high`, where a single unit leaves the spread unknown."""
    high: float
    level: float
    n: int
    """Independent units behind it."""

    def __str__(self) -> str:
        return f"{self.estimate:.3g} [{self.low:.3g}, {self.high:.3g}]"


def unit_means(values: ArrayLike, units: ArrayLike | None = None) -> Floats:
    """Mean of the values of each unit, in the order of the sorted units; without units each value is its own.

    Args:
        values: [B] numbers.
        units: [B] the unit (prompt, cluster) each belongs to, of any sortable type.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or numbers.size == 0:
        raise ConfigError(
            f"values of shape {numbers.shape} have no mean by unit; give at least one, as a flat array",
            code="wrong_shape",
            key="values",
        )
    if units is None:
        return numbers
    names, index = np.unique(np.asarray(units), return_inverse=True)
    if index.shape != numbers.shape:
        raise ConfigError(
            f"{numbers.size} values but {index.size} units; give one unit a value", code="unequal_lengths", key="units"
        )
    return np.bincount(index, numbers, len(names)) / np.bincount(index, minlength=len(names))


def percentile_interval(estimate: float, draws: ArrayLike, n: int, level: float = 0.95) -> Interval:
    """The interval between the (1±level)/2 quantiles of bootstrap draws, around an estimate made from all the data."""
    values = np.asarray(draws, dtype=np.float64)
    values = values[np.isfinite(values)]
    if n < 2 or values.size == 0:
        return Interval(float(estimate), math.nan, math.nan, level, n)
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(estimate), float(low), float(high), level, n)


def bootstrap(
    statistic: Callable[[NDArray[np.intp]], Floats],
    n: int,
    *,
    level: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """Percentile bootstrap of any statistic of n exchangeable units.

    Args:
        statistic: From indices [D, n] of the units in each of D draws to the D values of the statistic.
        n: How many units there are.
    """
    _require(
        {"level": 0 < level < 1, "n": n >= 1, "resamples": resamples >= 1},
        f"level={level}, n={n}, resamples={resamples}: level lies in (0, 1), the others are ≥ 1",
    )
    estimate = statistic(np.arange(n)[None, :])[0]
    rng = np.random.default_rng(seed)
    draws, left = [], resamples
    while left and n > 1:
        size = min(left, max(1, _CHUNK // n))
        draws.append(statistic(rng.integers(n, size=(size, n))))
        left -= size
    return percentile_interval(float(estimate), np.concatenate(draws) if draws else [], n, level)


def bootstrap_mean(
    values: ArrayLike,
    units: ArrayLike | None = None,
    *,
    level: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """Mean over units of the means within units, with a percentile bootstrap interval over units.

    Args:
        values: [B] numbers, in any unit of measure; the interval is in the same.
        units: [B] the unit each value belongs to; without it each value stands for itself.
    """
    means = unit_means(values, units)
    return bootstrap(lambda draw: means[draw].mean(1), len(means), level=level, seed=seed, resamples=resamples)


def paired_difference(
    after: ArrayLike,
    before: ArrayLike,
    units: ArrayLike | None = None,
    *,
    level: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """Mean of `after − before` on the same rows: what both share cancels, so it is narrower than two intervals."""
    late, early = np.asarray(after, dtype=np.float64), np.asarray(before, dtype=np.float64)
    if late.shape != early.shape:
        raise ConfigError(
            f"after is {late.shape}, before is {early.shape}; a paired difference needs the same rows",
            code="other_rows",
        )
    return bootstrap_mean(late - early, units, level=level, seed=seed, resamples=resamples)


def wilson(successes: float, n: int, level: float = 0.95) -> Interval:
    """A share of n independent yes-or-no units with Wilson's score interval; good near 0 and 1 and for few units.

    With p = successes/n and z the normal quantile: centre (p + z²/2n)/(1 + z²/n), half-width
    z·√(p(1−p)/n + z²/4n²)/(1 + z²/n). Ties may count ½, which makes it conservative.

    Source: Wilson 1927, J. Am. Stat. Assoc. 22:209.
    """
    _require(
        {"n": n >= 1, "successes": 0 <= successes <= n, "level": 0 < level < 1},
        f"{successes} of {n} at level {level} is no share; needs 0 ≤ successes ≤ n, n ≥ 1, level < 1",
    )
    share, z = successes / n, NormalDist().inv_cdf((1 + level) / 2)
    scale = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2) / scale
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half), level, n)


def _require(in_range: Mapping[str, bool], message: str) -> None:
    """Raise with the first argument that is out of its range.

    Raises:
        ConfigError: there is one.
    """
    for name, is_in_range in in_range.items():
        if not is_in_range:
            raise ConfigError(message, code="out_of_range", key=name)
