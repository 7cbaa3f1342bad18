"""Win rate: how often the answers of one system are better than those of another, with an interval over prompts.

All numbers are worked out from the advantage p − ½ and kept on a grid of 2⁻⁴⁰. So they change their sign, and nothing
else, when the two systems are exchanged.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tiltlm.core.errors import ConfigError
from tiltlm.estimates.intervals import RESAMPLES, Interval, percentile_interval, unit_means, wilson

Floats = NDArray[np.float64]

_CHUNK = 2_000_000  # resampled values held at once: 16 MB of float64
_GRID = 2.0**40
MAX_EXACT = 16
"""Most prompts with a preference for which every assignment of signs is counted."""


def on_grid(values: ArrayLike) -> Floats:
    """Round to multiples of 2⁻⁴⁰, about 1e-12, so that ½ + x and ½ − x add up to exactly 1."""
    rounded: Floats = np.rint(np.asarray(values, dtype=np.float64) * _GRID) / _GRID
    return rounded


@dataclass(frozen=True)
class WinRate:
    """How often the first of two systems is better."""

    rate: Interval
    """Mean over prompts of P(first better), ties counted ½; bootstrap over prompts."""
    wilson: Interval | None
    """Wilson's interval; None unless every prompt is a plain win or loss."""
    p_value: float
    """Of "neither is better": by exchanging the two systems at random at each prompt."""
    num_prompts: int

    @property
    def is_decided(self) -> bool:
        """True if the interval of the rate excludes ½."""
        return self.rate.low > 0.5 or self.rate.high < 0.5

    @property
    def mirrored(self) -> "WinRate":
        """The same of the second system."""
        other = None if self.wilson is None else mirror(self.wilson)
        return WinRate(mirror(self.rate), other, self.p_value, self.num_prompts)


def mirror(rate: Interval) -> Interval:
    """Return the interval of 1 − rate."""
    return Interval(1 - rate.estimate, 1 - rate.high, 1 - rate.low, rate.level, rate.n)


def symmetric_interval(estimate: float, draws: ArrayLike, n: int, level: float = 0.95) -> Interval:
    """Return a percentile interval on the grid; that of −x has exactly the opposite ends.

    Args:
        estimate: The estimate from all data, a number that changes its sign if the systems are exchanged.
        draws: [D] the same number of each bootstrap draw.
        n: Number of independent units.
        level: Share of repetitions in which the interval holds the truth.
    """
    values = np.asarray(draws, dtype=np.float64)
    low = percentile_interval(estimate, values, n, level).low
    high = -percentile_interval(-estimate, -values, n, level).low
    return Interval(float(on_grid(estimate)), float(on_grid(low)), float(on_grid(high)), level, n)


def shifted(advantage: Interval) -> Interval:
    """Return the rate ½ + advantage."""
    return Interval(0.5 + advantage.estimate, 0.5 + advantage.low, 0.5 + advantage.high, advantage.level, advantage.n)


def win_rate(
    values: ArrayLike,
    prompts: ArrayLike | None = None,
    *,
    strata: ArrayLike | None = None,
    clusters: ArrayLike | None = None,
    level: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> WinRate:
    """Return the win rate of judgements: first the mean of each prompt, then the mean over prompts.

    Args:
        values: [B] P(first better) of each judgement, ties ½. Judgements that failed are no values; leave them out.
        prompts: [B] the prompt of each judgement. None means that each judgement has its own prompt.
        strata: [B] the stratum of each judgement, such as a category. Prompts are resampled within strata, so that the
            mix of prompts stays as it is. None: one stratum.
        clusters: [B] the cluster of each judgement: prompts that depend on one another, such as turns of one
            conversation. Whole clusters are resampled. None: prompts are independent.
        level: Share of repetitions in which the interval holds the truth.
        seed: Seed of bootstrap and random exchanges.
        resamples: Draws of the bootstrap, and random exchanges.

    Raises:
        ConfigError: there are no values, one lies outside 0 to 1, or strata or clusters divide a prompt.
    """
    advantage = np.asarray(values, dtype=np.float64) - 0.5
    if not np.all(np.abs(advantage) <= 0.5):
        raise ConfigError(
            "a value is not a probability; P(first better) lies between 0 and 1, and failed judgements are left out",
            code="out_of_range",
            key="values",
        )
    means = unit_means(advantage, prompts)
    groups = _constant(strata, prompts, len(means), "strata")
    units = _constant(clusters, prompts, len(means), "clusters") if clusters is not None else np.arange(len(means))
    draws, n = _resampled(means, units, groups, seed, resamples)
    rate = shifted(symmetric_interval(float(means.mean()), draws, n, level))
    is_binary = bool(np.all(np.abs(means) == 0.5)) and clusters is None
    share = _wilson(int(np.sum(means > 0)), len(means), level) if is_binary else None
    sums = np.bincount(units, means)
    return WinRate(rate, share, sign_flip_p(sums, seed=seed, flips=resamples), len(means))


def _wilson(wins: int, n: int, level: float) -> Interval:
    """Return Wilson's interval on the grid; that of the losses is its exact mirror."""
    more = wilson(max(wins, n - wins), n, level)
    estimate, low, high = on_grid([more.estimate - 0.5, more.low - 0.5, more.high - 0.5]).tolist()
    own = shifted(Interval(estimate, low, high, level, n))
    return own if 2 * wins >= n else mirror(own)


def mean_difference(
    differences: ArrayLike, prompts: ArrayLike | None = None, seed: int = 0, *, level: float = 0.95
) -> Interval:
    """Return the mean over prompts of paired differences; that of the opposite differences has the opposite numbers.

    Args:
        differences: [B] first − second.
        prompts: [B] the prompt of each. None means that each has its own.
        seed: Seed of the bootstrap.
        level: Share of repetitions in which the interval holds the truth.
    """
    means = unit_means(differences, prompts)
    draws, n = _resampled(means, np.arange(len(means)), np.zeros(len(means), dtype=np.intp), seed, RESAMPLES)
    return symmetric_interval(float(means.mean()), draws, n, level)


def _constant(labels: ArrayLike | None, prompts: ArrayLike | None, n: int, key: str) -> NDArray[np.intp]:
    """Return [n] the number of each prompt's label, which all of its judgements share.

    Raises:
        ConfigError: judgements of one prompt have different labels.
    """
    if labels is None:
        return np.zeros(n, dtype=np.intp)
    _, numbers = np.unique(np.asarray(labels), return_inverse=True)
    if prompts is None:
        return numbers
    _, first, index = np.unique(np.asarray(prompts), return_index=True, return_inverse=True)
    if not np.array_equal(numbers[first][index], numbers):
        raise ConfigError(
            f"judgements of one prompt have different {key}; a prompt belongs to one of them", code="conflict", key=key
        )
    return numbers[first]


def _resampled(
    means: Floats, units: NDArray[np.intp], groups: NDArray[np.intp], seed: int, resamples: int
) -> tuple[Floats, int]:
    """Return [D] the mean over prompts in each bootstrap draw of units within groups, and the number of units."""
    sums, sizes = np.bincount(units, means), np.bincount(units)
    group_of_unit = np.zeros(len(sums), dtype=np.intp)
    group_of_unit[units] = groups
    members = [np.flatnonzero(group_of_unit == g) for g in np.unique(group_of_unit)]
    rng = np.random.default_rng(seed)
    found = []
    left = resamples
    while left:
        size = min(left, max(1, _CHUNK // len(sums)))
        total, count = np.zeros(size), np.zeros(size)
        for own in members:
            drawn = own[rng.integers(len(own), size=(size, len(own)))]
            total += sums[drawn].sum(1)
            count += sizes[drawn].sum(1)
        found.append(total / count)
        left -= size
    return np.concatenate(found), len(sums)


def sign_flip_p(differences: ArrayLike, *, seed: int = 0, flips: int = RESAMPLES) -> float:
    """Return the two-sided p of "differences are symmetric about 0", by exchanging their signs.

    It is exact where all differences have one size (then it is the binomial test) and for up to `MAX_EXACT` of them
    that are not 0. Otherwise signs are drawn at random, and p = (1 + hits) / (1 + draws), which is never 0.

    Args:
        differences: [P] one independent difference per prompt.
        seed: Seed of the random signs.
        flips: Number of random assignments of signs.

    Source: Fisher 1935, The Design of Experiments, section 21.
    """
    sizes = np.asarray(differences, dtype=np.float64)
    sizes = sizes[sizes != 0]
    if not sizes.size:
        return 1.0
    observed = abs(float(sizes.sum()))
    sizes = np.abs(sizes)
    limit = observed * (1 - 1e-12)  # sums of the same numbers in another order differ in the last digits
    if np.all(sizes == sizes[0]):
        from scipy import stats

        wins = round((len(sizes) + observed / float(sizes[0])) / 2)
        return float(stats.binomtest(wins, len(sizes)).pvalue)
    if len(sizes) <= MAX_EXACT:
        bits = np.arange(2 ** (len(sizes) - 1))[:, None] >> np.arange(len(sizes)) & 1
        return float(np.mean(np.abs((1 - 2 * bits) @ sizes) >= limit))
    rng = np.random.default_rng(seed)
    hits, left = 0, flips
    while left:
        count = min(left, max(1, _CHUNK // len(sizes)))
        signs = 1.0 - 2 * rng.integers(2, size=(count, len(sizes)), dtype=np.int8)
        hits += int(np.sum(np.abs(signs @ sizes) >= limit))
        left -= count
    return (1 + hits) / (1 + flips)
