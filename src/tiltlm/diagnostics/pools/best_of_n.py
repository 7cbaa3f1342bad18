"""Best-of-n from one pool a prompt: the judge's score and a second, independent one, with intervals over prompts.

The best of n by a judge (the proxy) is an overestimate of how good it is: the judge's errors are chosen too. A gold
score that the choice does not use shows what was won, and from which n on choosing harder does harm.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tiltlm.core.errors import ConfigError
from tiltlm.diagnostics.pools.order_statistics import best_weights, sorted_with_ties_averaged
from tiltlm.diagnostics.pools.selection_kl import collision_rate, kl_bound, selection_kl
from tiltlm.estimates.intervals import RESAMPLES, Interval, bootstrap_mean

Floats = NDArray[np.float64]

LOST_MASS = 1e-3
"""Largest probability of a number of draws that the pool does not have."""
MIN_POINTS = 6
"""Fewest sizes n to which the shape of over-optimisation is fitted."""


def best_of_n_values(scores: ArrayLike, values: ArrayLike, ns: ArrayLike) -> Floats:
    """Return the expected value of the response with the highest score among n draws, at each prompt: [P, G].

    ĝ(n) = Σ_{i=n}^{N} C(i−1, n−1)/C(N, n)·g_(i), responses in ascending order of their scores, ties averaged. Unbiased
    for every n ≤ N. Scores with their signs changed give the worst of n.

    Args:
        scores: [P, N] scores by which the best is chosen.
        values: [P, N] numbers to report; the scores themselves, or a gold score.
        ns: [G] numbers of draws.

    Raises:
        ConfigError: an n is above N, a number is not finite, or the shapes differ.

    Source: Nakano et al. 2021 (arXiv:2112.09332), appendix I.
    """
    keys, numbers = _pools(scores, values)
    averaged: Floats = sorted_with_ties_averaged(keys, numbers) @ best_weights(keys.shape[1], ns).T
    return averaged


def best_of_n_win_rates(scores: ArrayLike, ns: ArrayLike) -> Floats:
    """Return P(the best of n draws has a higher score than one more draw), ties ½: [P, G]. Each value is unbiased.

    Of n + 1 draws one is the opponent. It wins if it alone has the highest score, and ties if it shares it. Without
    equal scores the result is n/(n+1).

    Args:
        scores: [P, N] scores.
        ns: [G] numbers of draws, below N.

    Raises:
        ConfigError: an n is not below N, or a score is not finite.
    """
    keys, _ = _pools(scores, scores)
    sizes = np.atleast_1d(np.asarray(ns, dtype=np.int64)) + 1
    weights = best_weights(keys.shape[1], sizes)
    ordered = np.sort(keys, axis=1)
    columns = []
    for row in ordered:
        at_most = np.searchsorted(row, row, side="right")
        below = np.searchsorted(row, row, side="left")
        columns.append((weights[:, at_most - 1] + weights[:, below]).sum(1) / (2 * sizes))
    rates: Floats = 1 - np.stack(columns)
    return rates


def soft_best_of_n_values(
    scores: ArrayLike, values: ArrayLike, ns: ArrayLike, temperature: float, *, seed: int = 0, subsets: int = 256
) -> Floats:
    """Return the expected value if one of n draws is taken with probability ∝ e^{score/λ}: [P, G].

    λ → 0 is best-of-n, λ → ∞ a single draw. For n → ∞ the distribution tends to the tilt π_ref·e^{score/λ}/Z. It is the
    mean over random subsets of the pool, the same ones at every prompt, so it has a Monte Carlo error.

    Args:
        scores: [P, N] scores.
        values: [P, N] numbers to report.
        ns: [G] numbers of draws, at most N.
        temperature: λ, in units of the score.
        seed: Seed of the subsets.
        subsets: Number of subsets for each n.

    Source: Verdun et al. 2025 (arXiv:2505.03156).
    """
    keys, numbers = _pools(scores, values)
    if not temperature > 0:
        raise ConfigError(
            f"the temperature of the choice is {temperature}; it must be above 0 (near 0 is best-of-n)",
            code="not_positive",
            key="temperature",
        )
    best_weights(keys.shape[1], ns)  # checks the range of n
    rng = np.random.default_rng(seed)
    columns = []
    for n in np.atleast_1d(np.asarray(ns, dtype=np.int64)):
        picks = np.argsort(rng.random((subsets, keys.shape[1])), axis=1)[:, :n]
        logits = keys[:, picks] / temperature
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        columns.append(((weights * numbers[:, picks]).sum(-1) / weights.sum(-1)).mean(1))
    return np.stack(columns, axis=1)


def poisson_values(scores: ArrayLike, values: ArrayLike, means: ArrayLike) -> Floats:
    """Return the expected value of the best of 1 + Poisson(μ) draws: [P, G].

    A random number of draws comes nearer to the tilted policy than a fixed one, and μ can be any number.

    Args:
        scores: [P, N] scores by which the best is chosen.
        values: [P, N] numbers to report.
        means: [G] μ ≥ 0.

    Raises:
        ConfigError: a larger number of draws than N has a probability above `LOST_MASS`.

    Source: Khalaf et al. 2025 (arXiv:2506.19248), best-of-Poisson.
    """
    from scipy.stats import poisson

    keys, numbers = _pools(scores, values)
    rates = np.atleast_1d(np.asarray(means, dtype=np.float64))
    size = keys.shape[1]
    lost = poisson.sf(size - 1, rates)
    if (rates < 0).any() or (lost > LOST_MASS).any():
        raise ConfigError(
            f"best of 1 + Poisson(μ) with μ = {rates.tolist()} needs μ ≥ 0 and more than the {size} samples a prompt; "
            "draw more, or lower μ",
            code="out_of_range",
            key="means",
        )
    masses = poisson.pmf(np.arange(size), rates[:, None])
    every_n = best_of_n_values(keys, numbers, np.arange(1, size + 1))
    mixed: Floats = every_n @ (masses / masses.sum(1, keepdims=True)).T
    return mixed


def pass_at_k(correct: ArrayLike, k: int) -> Floats:
    """Return the chance that at least one of k draws is right, at each prompt: 1 − C(N−c, k)/C(N, k), [P].

    Args:
        correct: [P, N] True where a response is right.
        k: Number of draws, at most N.

    Source: Chen et al. 2021 (arXiv:2107.03374), equation 1.
    """
    right = np.asarray(correct, dtype=np.float64)
    return best_of_n_values(right, right, [k])[:, 0]


@dataclass(frozen=True)
class OverOptimisation:
    """Where the gold score is highest over n, and what it is there on prompts that did not choose that n."""

    n: int
    """n with the highest mean gold score on all prompts."""
    low: int
    """Lower end of its interval: quantiles of the best n in bootstrap draws of the prompts."""
    high: int
    chosen_n: int
    """n chosen on one half of the prompts."""
    gold: Interval
    """Gold score at `chosen_n` on the other half."""
    gain: Interval
    """Its gain over one draw on that half, paired."""
    after: Interval
    """Gold score at the largest n − that at `chosen_n`, on that half, paired. Below 0: choosing harder does harm."""

    @property
    def is_over_optimised(self) -> bool:
        """True if more draws than the best n clearly lower the gold score."""
        return self.after.high < 0


@dataclass(frozen=True)
class Fit:
    """R(n) − R(1) = d·(α − β·d) with d = √KL, fitted by least squares, intervals over prompts."""

    alpha: Interval
    beta: Interval

    @property
    def peak(self) -> float:
        """The distance d at which the fitted gold score is highest; infinite if it does not fall."""
        return self.alpha.estimate / (2 * self.beta.estimate) if self.beta.estimate > 0 else math.inf


@dataclass(frozen=True)
class BestOfN:
    """The curves of best-of-n over n. All of them come from the same pools, so their points are dependent."""

    ns: tuple[int, ...]
    num_prompts: int
    pool_size: int
    proxy: tuple[Interval, ...]
    """Mean score, by the judge that chooses, of the best of n."""
    proxy_gain: tuple[Interval, ...]
    """Its difference to one draw, paired by prompt."""
    gold: tuple[Interval, ...] | None
    """Mean gold score of the same choice; None without a gold score."""
    gold_gain: tuple[Interval, ...] | None
    kl_bound: tuple[float, ...]
    """log n − (n−1)/n, nats per response."""
    kl: tuple[Interval, ...] | None
    """Estimate from the probabilities of the chosen responses; None where these are not known."""
    collisions: float | None
    """Share of equal pairs of responses in a pool; None without token ids."""
    peak: OverOptimisation | None
    fit: Fit | None


def measure_best_of_n(
    proxy: ArrayLike,
    ns: Sequence[int],
    *,
    gold: ArrayLike | None = None,
    logps: ArrayLike | None = None,
    keys: Sequence[Sequence[bytes]] | None = None,
    level: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> BestOfN:
    """Return the curves of best-of-n with intervals over prompts.

    Args:
        proxy: [P, N] scores by which the best is chosen.
        ns: Numbers of draws, ascending, at most N.
        gold: [P, N] scores of a judge that does not choose.
        logps: [P, N] log-probability of each response under the policy that drew it (temperature 1, no truncation),
            nats per response. None: the KL is not estimated.
        keys: [P][N] something that is equal for equal responses. None: collisions are not counted.
        level: Share of repetitions in which the intervals hold the truth.
        seed: Seed of the bootstrap and of the halves.
        resamples: Number of bootstrap draws of an interval.

    Raises:
        ConfigError: an n is above N, a number is not finite, or the shapes differ.
    """
    scores, _ = _pools(proxy, proxy)
    sizes = tuple(int(n) for n in ns)

    def curve(values: Floats, minus: Floats | None = None) -> tuple[Interval, ...]:
        found = values if minus is None else values - minus
        return tuple(bootstrap_mean(column, level=level, seed=seed, resamples=resamples) for column in found.T)

    of_proxy = best_of_n_values(scores, scores, sizes)
    single = best_of_n_values(scores, scores, [1])
    of_gold = None if gold is None else best_of_n_values(scores, gold, sizes)
    single_gold = None if gold is None else best_of_n_values(scores, gold, [1])
    kl = None if logps is None else curve(selection_kl(scores, logps, sizes))
    peak = fit = None
    if of_gold is not None and single_gold is not None and len(scores) >= 4:
        peak = find_peak(of_gold - single_gold, of_gold, sizes, level=level, seed=seed, resamples=resamples)
        distances = kl_bound(sizes) if kl is None else np.array([interval.estimate for interval in kl])
        fit = _fit(of_gold - single_gold, distances, level, seed)
    return BestOfN(
        ns=sizes,
        num_prompts=len(scores),
        pool_size=scores.shape[1],
        proxy=curve(of_proxy),
        proxy_gain=curve(of_proxy, single),
        gold=None if of_gold is None else curve(of_gold),
        gold_gain=None if of_gold is None else curve(of_gold, single_gold),
        kl_bound=tuple(kl_bound(sizes).tolist()),
        kl=kl,
        collisions=None if keys is None else collision_rate(keys),
        peak=peak,
        fit=fit,
    )


def find_peak(
    gains: ArrayLike,
    gold: ArrayLike,
    ns: Sequence[int],
    *,
    level: float = 0.95,
    seed: int = 0,
    resamples: int = 2_000,
) -> OverOptimisation:
    """Return the best n by the gold score. Its height is measured on prompts that did not choose it.

    The largest of several noisy means is an overestimate; on other prompts it is not.

    Args:
        gains: [P, G] gold score of the best of n − that of one draw.
        gold: [P, G] gold score of the best of n.
        ns: The n of each column.
        level: Share of repetitions in which the intervals hold the truth.
        seed: Seed of the halves and of the bootstrap.
        resamples: Number of bootstrap draws.
    """
    differences, values = np.asarray(gains, dtype=np.float64), np.asarray(gold, dtype=np.float64)
    num_prompts = len(values)
    rng = np.random.default_rng(seed)
    draws = values[rng.integers(num_prompts, size=(resamples, num_prompts))].mean(1).argmax(1)
    low, high = np.quantile(np.asarray(ns)[draws], [(1 - level) / 2, (1 + level) / 2], method="nearest")
    order = rng.permutation(num_prompts)
    chooses, reports = order[: num_prompts // 2], order[num_prompts // 2 :]
    chosen = int(values[chooses].mean(0).argmax())

    def of_reports(numbers: Floats) -> Interval:
        return bootstrap_mean(numbers[reports], level=level, seed=seed, resamples=resamples)

    return OverOptimisation(
        n=int(ns[int(values.mean(0).argmax())]),
        low=int(low),
        high=int(high),
        chosen_n=int(ns[chosen]),
        gold=of_reports(values[:, chosen]),
        gain=of_reports(differences[:, chosen]),
        after=of_reports(values[:, -1] - values[:, chosen]),
    )


def _fit(gains: Floats, kl: Floats, level: float, seed: int) -> Fit | None:
    """Fit d·(α − β·d) to the mean gains; None with fewer than `MIN_POINTS` points beyond one draw.

    Source: Gao et al. 2022 (arXiv:2210.10760), equation 1.
    """
    moved = kl > 0
    if moved.sum() < MIN_POINTS:
        return None
    d = np.sqrt(kl[moved])
    design = np.stack([d, -d * d], axis=1)
    solve: Floats = np.linalg.pinv(design)
    points = gains[:, moved] @ solve.T  # the fit is linear: that of a mean is the mean of the fits
    alpha, beta = (bootstrap_mean(column, level=level, seed=seed) for column in points.T)
    return Fit(alpha, beta)


def _pools(scores: ArrayLike, values: ArrayLike) -> tuple[Floats, Floats]:
    """Return both as [P, N] float64.

    Raises:
        ConfigError: the shapes differ, or a number is not finite.
    """
    keys, numbers = np.asarray(scores, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if keys.ndim != 2 or keys.size == 0 or keys.shape != numbers.shape:
        raise ConfigError(
            f"scores of shape {keys.shape} and values of shape {numbers.shape}: both must be [prompts, samples]",
            code="wrong_shape",
            key="scores",
        )
    if not (np.isfinite(keys).all() and np.isfinite(numbers).all()):
        bad = int((~np.isfinite(keys) | ~np.isfinite(numbers)).sum())
        raise ConfigError(
            f"{bad} of {keys.size} scores are missing or not finite; leave out the prompts with responses that the "
            "judge could not score",
            code="not_finite",
            key="scores",
        )
    return keys, numbers
