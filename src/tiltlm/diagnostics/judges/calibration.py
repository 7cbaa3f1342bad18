"""Calibration: which difference of scores, or of logits, is how much preference."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tiltlm.estimates.intervals import Floats, Interval, percentile_interval, unit_numbers

PSEUDO_PAIRS = 20.0
"""Weight, in pairs, of the belief that a judge's own probabilities are right."""
BINS = 10
"""Bins of the calibration error, over confidences from ½ to 1."""
RESAMPLES = 1000
_LARGEST = 1e3
"""Largest slope that is looked for, in units of 1 / (root mean square of the gaps)."""
_MAX_STEPS = 100


@dataclass(frozen=True)
class Calibration:
    """The fit of P(a better) = σ(slope · gap) to labels."""

    slope: Interval
    """Nats of preference per unit of gap; infinite if no pair contradicts its gap, 0 or less if the judge is no better
    than chance."""
    ece_before: float
    """Calibration error of σ(gap). It is biased upward in small samples, so it has no interval."""
    ece_after: float
    """That of σ(slope · gap), each half of the units with the slope of the other half."""

    @property
    def scale(self) -> float | None:
        """Gap that is one nat of preference: 1 / slope; None if the slope is not positive and finite."""
        estimate = self.slope.estimate
        return 1 / estimate if 0 < estimate < math.inf else None


def calibrate(
    gaps: ArrayLike,
    labels: ArrayLike,
    units: ArrayLike | None = None,
    *,
    are_logits: bool,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Calibration:
    """Fit one slope by maximum likelihood: Σ y·log σ(slope·gap) + (1 − y)·log σ(−slope·gap).

    Args:
        gaps: [n] differences of scores, a's minus b's; or logits of P(a better).
        labels: [n] P(a better) by people: 1, 0, ½ for a tie, or a share of votes.
        units: [n] the unit of each pair, such as its prompt; whole units are resampled. None: each pair is one.
        are_logits: True for logits, whose natural slope is 1: the fit is shrunk to it by `PSEUDO_PAIRS` pairs that the
            judge's own probabilities label. False for scores, whose unit is arbitrary.
        seed: Seed of the bootstrap.
        resamples: Number of draws.
    """
    x, y = np.asarray(gaps, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    n = len(x)
    rng = np.random.default_rng(seed)
    names = unit_numbers(units, n)
    num_units = int(names.max()) + 1
    draws = rng.multinomial(num_units, np.full(num_units, 1 / num_units), size=resamples)[:, names].astype(np.float64)
    slopes = fit_slopes(x, y, np.concatenate([np.ones((1, n)), draws]), are_logits=are_logits)
    even = names % 2 == 0
    halves = fit_slopes(x, y, np.stack([~even, even]).astype(np.float64), are_logits=are_logits)
    fitted = np.where(even, halves[0], halves[1])
    return Calibration(
        percentile_interval(float(slopes[0]), slopes[1:], num_units),
        calibration_error(_sigmoid(x), y),
        calibration_error(_sigmoid(_product(fitted, x)), y),
    )


def fit_slopes(gaps: Floats, labels: Floats, weights: Floats, *, are_logits: bool) -> Floats:
    """Return the slope of each weighted sample [D, n], by Newton's method within a bracket.

    Infinite where no weighted pair contradicts its gap; NaN where all gaps are 0.
    """
    if are_logits:  # pseudo-pairs: the same gaps with the judge's own probabilities as labels
        share = PSEUDO_PAIRS / weights.sum(1, keepdims=True)
        target = (labels + share * _sigmoid(gaps)) / (1 + share)
    else:
        target = np.broadcast_to(labels, weights.shape)
    unit = math.sqrt(float(np.mean(gaps**2)))
    if unit == 0:
        return np.full(len(weights), np.nan)
    x = gaps / unit

    def derivative(slope: Floats) -> Floats:
        return np.asarray((weights * x * (_sigmoid(slope[:, None] * x) - target)).sum(1))

    low, high = np.full(len(weights), -_LARGEST), np.full(len(weights), _LARGEST)
    above, below = derivative(high) <= 0, derivative(low) >= 0
    slope = np.zeros(len(weights))
    for _ in range(_MAX_STEPS):
        value = derivative(slope)
        low, high = np.where(value < 0, slope, low), np.where(value < 0, high, slope)
        p = _sigmoid(slope[:, None] * x)
        newton = slope - value / np.maximum((weights * x * x * p * (1 - p)).sum(1), 1e-300)
        following = np.where((newton >= low) & (newton <= high), newton, (low + high) / 2)
        moved = np.abs(following - slope)[~(above | below)]
        slope = following
        if np.all(moved <= 1e-11):
            break
    return np.where(above, np.inf, np.where(below, -np.inf, slope / unit))


def calibration_error(p: ArrayLike, labels: ArrayLike) -> float:
    """Return the expected calibration error: Σ over bins of their share × |mean confidence − agreement|.

    The confidence of a pair is max(p, 1 − p), in `BINS` bins of equal width from ½ to 1.

    Source: Guo et al. 2017, arXiv 1706.04599, eq. 3.
    """
    probability, y = np.asarray(p, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    confidence = np.maximum(probability, 1 - probability)
    agreement = np.where(probability == 0.5, 0.5, np.where(probability > 0.5, y, 1 - y))
    bins = np.minimum(((confidence - 0.5) * 2 * BINS).astype(int), BINS - 1)
    return float(np.abs(np.bincount(bins, confidence - agreement, BINS)).sum() / len(probability))


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(0.5 * (1 + np.tanh(x / 2)))


def _product(slope: Floats, x: Floats) -> Floats:
    """Return slope · x, with 0 where x is 0 and the slope infinite."""
    with np.errstate(invalid="ignore"):
        return np.where(x == 0, 0.0, slope * x)
