"""How well judgements of pairs agree with labels of people: Cohen's κ, AUC, rates, each with an interval.

Which of two responses is called a is arbitrary. So every pair counts in both orientations, and no number depends on
the order in which a file lists chosen and rejected.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tiltlm.core.errors import ConfigError
from tiltlm.estimates.intervals import (
    RESAMPLES,
    Floats,
    Interval,
    bootstrap,
    unit_numbers,
)


def decision(p: ArrayLike) -> Floats:
    """Return 1 where a is better, 0 where b is, ½ where neither is: probabilities as decisions."""
    values = np.asarray(p, dtype=np.float64)
    return np.where(values == 0.5, 0.5, (values > 0.5).astype(np.float64))


def kappa(
    judged: ArrayLike, labels: ArrayLike, units: ArrayLike | None = None, *, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """Return Cohen's κ of decisions and labels: 1 for full agreement, 0 for that of chance.

    κ = (p_o − p_e) / (1 − p_e), p_o the share of equal decisions. As each pair counts in both orientations, a and b are
    equally frequent, and p_e = (1 − t)(1 − s)/2 + t·s with the shares t and s of ties. NaN if p_e is 1.

    Args:
        judged: [n] decisions of the judge: P(a better) or 1, 0, ½.
        labels: [n] the same of people.
        units: [n] the unit of each pair, such as its prompt; whole units are resampled. None: each pair is one.
        seed: Seed of the bootstrap.
        resamples: Number of draws.

    Source: Cohen 1960, Educ. Psychol. Meas. 20:37.
    """
    found, right = decision(judged), decision(labels)
    facts = np.stack([found == right, found == 0.5, right == 0.5], axis=1).astype(np.float64)

    def statistic(sums: Floats) -> Floats:
        agree, t, s = np.moveaxis(sums[..., :3] / sums[..., 3:], -1, 0)
        chance = (1 - t) * (1 - s) / 2 + t * s
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(chance < 1, (agree - chance) / (1 - chance), np.nan)

    return _of_sums(statistic, facts, units, seed, resamples)


def _of_sums(
    statistic: Callable[[Floats], Floats], facts: Floats, units: ArrayLike | None, seed: int, resamples: int
) -> Interval:
    """Return a statistic of sums over pairs, with a bootstrap interval over units."""
    whole = np.concatenate([facts, np.ones((len(facts), 1))], axis=1)
    names = unit_numbers(units, len(whole))
    sums = np.stack([np.bincount(names, column) for column in whole.T], axis=1)
    return bootstrap(lambda draw: statistic(sums[draw].sum(1)), len(sums), seed=seed, resamples=resamples)


def auc(
    p: ArrayLike, labels: ArrayLike, units: ArrayLike | None = None, *, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """Return the area under the ROC curve of P(a better) as a predictor of the label.

    Each pair gives two cases: the probability p of the response that people prefer, and 1 − p of the other one. The
    AUC is the probability that a case of the first kind is above one of the second kind, of another pair; ties count ½.

    Args:
        p: [n] P(a better) by the judge.
        labels: [n] 1 where people prefer a, 0 where b. Pairs with other labels do not count.
        units: [n] the unit of each pair, such as its prompt; whole units are resampled. None: each pair is one.
        seed: Seed of the bootstrap.
        resamples: Number of draws.

    Raises:
        ConfigError: Fewer than two pairs count.
    """
    right = np.asarray(labels, dtype=np.float64)
    certain = (right == 0) | (right == 1)
    good = np.where(right == 1, p, 1 - np.asarray(p, dtype=np.float64))[certain]
    n = len(good)
    if n < 2:
        raise ConfigError(f"an AUC needs two pairs with a label 0 or 1, not {n}", code="too_few", key="labels")
    order = np.argsort(1 - good)
    bad = (1 - good)[order]
    below, up_to = np.searchsorted(bad, good, "left"), np.searchsorted(bad, good, "right")
    own = np.where(good > 0.5, 1.0, np.where(good == 0.5, 0.5, 0.0))

    names = unit_numbers(units, len(right))[certain]
    names = np.unique(names, return_inverse=True)[1]
    num_units = int(names.max()) + 1

    def statistic(draw: NDArray[np.intp]) -> Floats:
        rows = np.arange(len(draw))[:, None] * num_units
        times = np.bincount((draw + rows).ravel(), minlength=draw.shape[0] * num_units).reshape(-1, num_units)
        counts = times[:, names].astype(np.float64)
        sums = np.concatenate([np.zeros((len(counts), 1)), np.cumsum(counts[:, order], axis=1)], axis=1)
        above = (sums[:, below] + sums[:, up_to]) / 2
        total = counts.sum(1) ** 2 - (counts**2).sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(((counts * above).sum(1) - (counts**2 * own).sum(1)) / total)

    return bootstrap(statistic, num_units, seed=seed, resamples=resamples)
