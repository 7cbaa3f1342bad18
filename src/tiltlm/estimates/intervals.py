"""Intervals: how far an estimate may be from the truth, from units that were drawn independently.

The unit is the prompt (or a cluster of prompts), never the row: several responses to one prompt are dependent, and
resampling rows would make every interval too narrow. All functions are seeded: the same seed gives the same numbers.
"""

import math
from collections.abc import Callable, Mapping, Sequence
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
    """An estimate and the range that holds the truth in the share `level` of all repetitions."""

    estimate: float
    low: float
    """Lower end; NaN, like `high`, where there is one unit and so no known spread."""
    high: float
    level: float
    n: int
    """Number of independent units."""

    @property
    def excludes_zero(self) -> bool:
        """True if the whole interval lies above 0 or below 0; False if it is unknown."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{self.estimate:.3g} [{self.low:.3g}, {self.high:.3g}]"


def unit_means(values: ArrayLike, units: ArrayLike | None = None) -> Floats:
    """Return the mean of the values of each unit, in the order of the sorted units.

    Args:
        values: [B] numbers.
        units: [B] the unit (prompt, cluster) that each value belongs to, of any sortable type. None means that each
            value is a unit.

    Raises:
        ConfigError: there are no values, or not one unit per value.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or numbers.size == 0:
        raise ConfigError(
            f"values of shape {numbers.shape}: means by unit need a flat array with at least one value",
            code="wrong_shape",
            key="values",
        )
    if units is None:
        return numbers
    names, index = np.unique(np.asarray(units), return_inverse=True)
    if index.shape != numbers.shape:
        raise ConfigError(
            f"{numbers.size} values but {index.size} units; give one unit per value",
            code="unequal_lengths",
            key="units",
        )
    return np.bincount(index, numbers, len(names)) / np.bincount(index, minlength=len(names))


def unit_numbers(units: ArrayLike | None, n: int) -> NDArray[np.intp]:
    """Return the number of each value's unit, from 0; None means that each of the n values is a unit."""
    return np.arange(n) if units is None else np.unique(np.asarray(units), return_inverse=True)[1]


def percentile_interval(estimate: float, draws: ArrayLike, n: int, level: float = 0.95) -> Interval:
    """Return the interval between the (1±level)/2 quantiles of bootstrap draws.

    Args:
        estimate: The estimate from all the data.
        draws: [D] the same statistic of each bootstrap draw. Draws that are not finite are left out.
        n: Number of units. With fewer than 2 the ends are NaN.
        level: Share of repetitions in which the interval holds the truth.
    """
    values = np.asarray(draws, dtype=np.float64)
    values = values[np.isfinite(values)]
    if n < 2 or values.size == 0:
        return Interval(float(estimate), math.nan, math.nan, level, n)
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(estimate), float(low), float(high), level, n)


def bias_corrected_interval(estimate: float, draws: ArrayLike, n: int, level: float = 0.95) -> Interval:
    """Return the bias-corrected percentile interval of bootstrap draws.

    An estimator that shrinks towards some value shrinks once more in each draw, so plain percentiles count its bias
    twice. With z₀ = Φ⁻¹(share of draws below the estimate), the ends are the quantiles Φ(2 z₀ ± z) of the draws.

    Args:
        estimate: The estimate from all the data.
        draws: [D] the same statistic of each bootstrap draw. Draws that are not finite are left out.
        n: Number of units. With fewer than 2 the ends are NaN.
        level: Share of repetitions in which the interval holds the truth.

    Source: Efron 1981, Can. J. Stat. 9:139.
    """
    values = np.asarray(draws, dtype=np.float64)
    values = values[np.isfinite(values)]
    if n < 2 or values.size == 0:
        return Interval(float(estimate), math.nan, math.nan, level, n)
    normal = NormalDist()
    below = (np.sum(values < estimate) + np.sum(values <= estimate) + 1) / (2 * values.size + 2)
    z0, z = normal.inv_cdf(float(below)), normal.inv_cdf((1 + level) / 2)
    low, high = np.quantile(values, [normal.cdf(2 * z0 - z), normal.cdf(2 * z0 + z)])
    return Interval(float(estimate), float(low), float(high), level, n)


def bootstrap(
    statistic: Callable[[NDArray[np.intp]], Floats],
    n: int,
    *,
    level: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """Return an interval of any statistic of n exchangeable units, by percentile bootstrap.

    Args:
        statistic: Function from indices [D, n] of the units in each of D draws to the D values of the statistic.
        n: Number of units.
        level: Share of repetitions in which the interval holds the truth.
        seed: Seed of the draws.
        resamples: Number of draws.

    Raises:
        ConfigError: `level`, `n` or `resamples` is out of range.
    """
    _require(
        {"level": 0 < level < 1, "n": n >= 1, "resamples": resamples >= 1},
        f"level={level}, n={n}, resamples={resamples}: level must lie in (0, 1), the others must be ≥ 1",
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
    """Return the mean over units of the means within units, with a percentile bootstrap interval over units.

    Args:
        values: [B] numbers, in any unit of measure; the interval has the same.
        units: [B] the unit that each value belongs to. None means that each value is a unit.
        level: Share of repetitions in which the interval holds the truth.
        seed: Seed of the draws.
        resamples: Number of draws.
    """
    means = unit_means(values, units)
    return bootstrap(lambda draw: means[draw].mean(1), len(means), level=level, seed=seed, resamples=resamples)


def mean_of_repetitions(values: ArrayLike, *, level: float = 0.95) -> Interval:
    """Return the mean of independent repetitions (seeds) with Student's interval, x̄ ± t·s/√n.

    It assumes that the repetitions are roughly normal, which so few of them cannot show. With one repetition the ends
    are NaN.

    Source: Student 1908, Biometrika 6:1.
    """
    from scipy import stats

    numbers = np.asarray(values, dtype=np.float64)
    mean, n = float(numbers.mean()), len(numbers)
    if n < 2:
        return Interval(mean, math.nan, math.nan, level, n)
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * float(numbers.std(ddof=1)) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, level, n)


def paired_difference(
    after: ArrayLike,
    before: ArrayLike,
    units: ArrayLike | None = None,
    *,
    level: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """Return the mean of `after − before` on the same rows, with a bootstrap interval over units.

    Variation that both measurements share cancels, so this interval is narrower than the two separate ones suggest.

    Args:
        after: [B] numbers after training.
        before: [B] numbers of the same rows before training.
        units: [B] the unit that each row belongs to. None means that each row is a unit.
        level: Share of repetitions in which the interval holds the truth.
        seed: Seed of the draws.
        resamples: Number of draws.

    Raises:
        ConfigError: the two arrays differ in shape.
    """
    late, early = np.asarray(after, dtype=np.float64), np.asarray(before, dtype=np.float64)
    if late.shape != early.shape:
        raise ConfigError(
            f"`after` has shape {late.shape}, `before` has {early.shape}; a paired difference needs the same rows",
            code="other_rows",
        )
    return bootstrap_mean(late - early, units, level=level, seed=seed, resamples=resamples)


def wilson(successes: float, n: int, level: float = 0.95) -> Interval:
    """Return a share of n independent units with Wilson's score interval.

    It holds near 0 and 1 and for few units, too.

    With p = successes/n and z the normal quantile: centre (p + z²/2n)/(1 + z²/n), half-width
    z·√(p(1−p)/n + z²/4n²)/(1 + z²/n). Ties may count ½, which makes the interval conservative.

    Source: Wilson 1927, J. Am. Stat. Assoc. 22:209.

    Raises:
        ConfigError: an argument is out of range.
    """
    _require(
        {"n": n >= 1, "successes": 0 <= successes <= n, "level": 0 < level < 1},
        f"{successes} of {n} at level {level}: a share needs 0 ≤ successes ≤ n, n ≥ 1 and 0 < level < 1",
    )
    share, z = successes / n, NormalDist().inv_cdf((1 + level) / 2)
    scale = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2) / scale
    low, high = (0.0 if successes == 0 else centre - half), (1.0 if successes == n else centre + half)
    return Interval(share, max(0.0, low), min(1.0, high), level, n)


def rate(
    values: ArrayLike, units: ArrayLike | None = None, *, seed: int = 0, resamples: int = RESAMPLES
) -> Interval | None:
    """Return the mean of shares with a bootstrap interval over units; None without values.

    Where all values are 0 or all are 1, a bootstrap shows no spread, and Wilson's interval is given.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.size == 0:
        return None
    means = unit_means(numbers, units)
    if np.all(means == 0) or np.all(means == 1):
        return wilson(float(means.sum()), len(means))
    return bootstrap_mean(numbers, units, seed=seed, resamples=resamples)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number: p below α there has at most the chance α of any false finding.

    The i-th smallest of m becomes max over j ≤ i of (m − j + 1) · p₍ⱼ₎, at most 1.

    Source: Holm 1979, Scand. J. Stat. 6:65.

    Raises:
        ConfigError: a p-value is not between 0 and 1.
    """
    _require({"p_values": all(0 <= p <= 1 for p in p_values)}, f"{list(p_values)}: a p-value lies between 0 and 1")
    adjusted, largest = [math.nan] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def _require(in_range: Mapping[str, bool], message: str) -> None:
    """Raise an error that names the first argument out of its range.

    Raises:
        ConfigError: an argument is out of its range.
    """
    for name, is_in_range in in_range.items():
        if not is_in_range:
            raise ConfigError(message, code="out_of_range", key=name)
