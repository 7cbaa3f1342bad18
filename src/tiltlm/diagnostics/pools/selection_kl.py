"""The KL of best-of-n to the policy that draws: its upper bound, and an estimate from the chosen responses."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tiltlm.diagnostics.pools.order_statistics import best_weights, sorted_with_ties_averaged

Floats = NDArray[np.float64]


def kl_bound(ns: ArrayLike) -> Floats:
    """Return log n − (n−1)/n, nats per response, [G]: no best-of-n has a larger KL.

    Equal responses make the KL smaller than this; it is also at most −log of the probability of the best ones.

    Source: Beirami et al. 2024 (arXiv:2401.01879), theorem 3.1.
    """
    n = np.atleast_1d(np.asarray(ns, dtype=np.float64))
    bound: Floats = np.log(n) - (n - 1) / n
    return bound


def selection_kl(scores: ArrayLike, logps: ArrayLike, ns: ArrayLike) -> Floats:
    """Return the estimate of the KL at each prompt, [P, G], nats per response.

    With ε = π_ref(chosen response): (1−ε)ⁿ·(log n + (n−1)·log(1−ε) − (n−1)/n) + (1−(1−ε)ⁿ)·log((1−(1−ε)ⁿ)/ε), averaged
    over what best-of-n chooses. For long responses ε ≈ 0, and it is the bound.

    Args:
        scores: [P, N] scores by which the best is chosen.
        logps: [P, N] log-probability of each response under the policy that drew it, nats per response. The pool must
            have been drawn from that distribution: temperature 1, no truncation.
        ns: [G] numbers of draws.

    Source: Beirami et al. 2024 (arXiv:2401.01879), section 4.
    """
    sizes = np.atleast_1d(np.asarray(ns, dtype=np.float64))
    log_eps = np.minimum(np.asarray(logps, dtype=np.float64), 0.0)
    of_each = np.stack([_of_probability(log_eps, n) for n in sizes], axis=-1)
    ordered = sorted_with_ties_averaged(scores, of_each)
    estimate: Floats = np.einsum("png,gn->pg", ordered, best_weights(ordered.shape[1], ns))
    return estimate


def _of_probability(log_eps: Floats, n: float) -> Floats:
    """Return the estimate for a chosen response of probability e^{log_eps}."""
    eps = np.exp(log_eps)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_rest = np.log1p(-eps)  # log(1−ε), −∞ for ε = 1
        unseen = np.exp(n * log_rest)  # (1−ε)ⁿ
        seen = -np.expm1(n * log_rest)
        first = np.where(unseen > 0, unseen * (math.log(n) + (n - 1) * log_rest - (n - 1) / n), 0.0)
        # log(seen/ε): for ε → 0 the ratio is n
        ratio = np.where(eps > 0, np.log(seen) - log_eps, math.log(n))
    estimate: Floats = first + np.where(eps > 0, seen * ratio, 0.0)
    return np.maximum(estimate, 0.0)


def collision_rate(keys: Sequence[Sequence[bytes]]) -> float:
    """Return the share of pairs of a prompt's responses that are equal; it estimates e^{−H2}, H2 the Rényi-2 entropy.

    The bound of the KL is too large by at most 2n(n−1) times this.

    Args:
        keys: [P][N] something that is equal for equal responses.
    """
    shares = []
    for pool in keys:
        pairs = len(pool) * (len(pool) - 1) / 2
        equal = sum(count * (count - 1) / 2 for count in Counter(pool).values())
        shares.append(equal / pairs if pairs else 0.0)
    return float(np.mean(shares))
