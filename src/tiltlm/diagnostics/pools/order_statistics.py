"""The best of n from a pool of N, without drawing again: each n has exact weights over the sorted pool.

Of all C(N, n) subsets of a pool, the i-th smallest of its N scores is the largest in C(i−1, n−1). So a mean over
subsets is a weighted sum over the sorted pool, and one pool gives an unbiased value for every n ≤ N.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln

from tiltlm.core.errors import ConfigError

Floats = NDArray[np.float64]


def best_weights(pool_size: int, ns: ArrayLike) -> Floats:
    """Return C(i−1, n−1)/C(N, n) for i = 1..N, [G, N]: the chance that the i-th smallest score is the best of n.

    Args:
        pool_size: N.
        ns: [G] sizes n.

    Raises:
        ConfigError: an n is below 1 or above N: a pool says nothing about more draws than it has.
    """
    sizes = np.atleast_1d(np.asarray(ns, dtype=np.int64))
    if sizes.size == 0 or sizes.min() < 1 or sizes.max() > pool_size:
        raise ConfigError(
            f"n must lie between 1 and {pool_size}, the samples of each prompt, but is {sizes.tolist()}; draw more",
            code="out_of_range",
            key="n",
        )
    n, i = sizes[:, None].astype(np.float64), np.arange(1, pool_size + 1, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        logs = _log_choose(i - 1, n - 1) - _log_choose(np.float64(pool_size), n)
    weights: Floats = np.where(i >= n, np.exp(logs), 0.0)
    return weights


def _log_choose(total: ArrayLike, chosen: ArrayLike) -> Floats:
    """Return log C(total, chosen); NaN or infinite where chosen > total."""
    top, part = np.asarray(total, dtype=np.float64), np.asarray(chosen, dtype=np.float64)
    logs: Floats = gammaln(top + 1) - gammaln(part + 1) - gammaln(top - part + 1)
    return logs


def sorted_with_ties_averaged(scores: ArrayLike, values: ArrayLike) -> Floats:
    """Return values in ascending order of their scores; those of equal scores are replaced by their mean.

    This is the expectation over breaking ties at random, so the order of a pool never matters.

    Args:
        scores: [P, N] scores by which the best is chosen.
        values: [P, N] or [P, N, K] numbers to report of the chosen one.
    """
    keys, numbers = np.asarray(scores, dtype=np.float64), np.asarray(values, dtype=np.float64)
    order = np.argsort(keys, axis=1, kind="stable")
    keys = np.take_along_axis(keys, order, 1)
    flat = numbers.reshape(*keys.shape, -1)
    flat = np.take_along_axis(flat, order[:, :, None], 1)
    starts = np.concatenate([np.ones((len(keys), 1), dtype=bool), keys[:, 1:] > keys[:, :-1]], axis=1)
    group = starts.ravel().cumsum() - 1
    counts = np.bincount(group)
    means = np.stack([np.bincount(group, column) / counts for column in flat.reshape(-1, flat.shape[2]).T], axis=-1)
    averaged: Floats = means[group].reshape(numbers.shape)
    return averaged
