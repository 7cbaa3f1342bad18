r"""Estimate the rate of wrong labels from the margins of a model, and find the labels that are probably wrong.

The model of the labels: for a pair with implicit margin m = log π/π_ref(a) − log π/π_ref(b), a is truly preferred with
probability σ(κ m), for one κ > 0 that is the same for all pairs. Then a share ε of the labels is flipped, whatever the
pair. With a the response of larger margin, P(the label prefers a) = ε + (1 − 2ε) σ(κ |m|).

For |m| → ∞ this is 1 − ε: pairs of large margin say how many labels are wrong, pairs of small margin how steep σ is. So
ε can be known only if some pairs have large margins. A disagreement that σ explains is not counted as noise. A model
that is itself wrong where its margins are large makes ε larger; one that was trained on these labels has learned them
and makes it smaller.

Source: a logistic regression with a lapse rate; the flips are those of Chowdhury et al. 2024, arXiv 2403.00409.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tiltlm.core.errors import ConfigError
from tiltlm.estimates.intervals import Interval, percentile_interval, unit_numbers

Floats = NDArray[np.float64]

RATES = np.linspace(0, 0.5, 126)
"""Rates of the grid."""
SLOPES = np.geomspace(0.05, 200, 60)
"""Slopes κ of the grid, in units of 1 / median |m|."""
BINS = 80
"""Bins of |m| with equally many pairs."""
DRAWS = 1_000
HELD = 20_000_000
"""Weights of the bootstrap that are in memory at once."""
SMALLEST = 1e-3
"""Nats. If no margin is larger, they are rounding errors."""
FEW = 100
"""With fewer pairs the rate cannot be estimated."""
WIDE = 0.25
"""An interval that is wider says that the margins do not identify the rate."""


@dataclass(frozen=True, eq=False)
class LabelNoise:
    """The estimated rate of wrong labels, and the probability of each label to be wrong."""

    rate: Interval
    """Share of flipped labels, with its interval by bootstrap over prompts."""
    slope: float
    """κ: nats of preference per nat of margin."""
    agreement: float
    """Share of the pairs whose margin has the sign of the label."""
    p_flipped: Floats
    """[B] probability of each label to be flipped, given its margin."""
    is_identified: bool
    """False: the interval is so wide that the margins say little about the rate."""


def estimate_label_noise(
    margins: Floats, units: NDArray[np.generic] | None = None, *, seed: int = 0, draws: int = DRAWS
) -> LabelNoise:
    """Estimate the rate of flipped labels by maximum likelihood, with a percentile bootstrap over prompts.

    Args:
        margins: [B] margin of the labelled-better response minus that of the other, in nats: log π/π_ref(chosen) −
            log π/π_ref(rejected).
        units: [B] the prompt of each pair; None: each pair has its own.
        seed: Seed of the bootstrap.
        draws: Draws of the bootstrap.

    Raises:
        ConfigError: There are fewer than `FEW` pairs, all margins are smaller than `SMALLEST`, or one is not finite.
    """
    values = np.asarray(margins, np.float64)
    _check(values)
    sizes = np.abs(values)
    scale = float(np.median(sizes[sizes > 0]))
    cells, centres = _cells(values, sizes)
    slopes = SLOPES / scale
    table = _log_likelihoods(slopes, centres)
    numbers = unit_numbers(units, len(values))
    rng = np.random.default_rng(seed)
    weights = np.stack([np.ones(len(values))])
    rate, slope = (found[0] for found in _fit(_counts(cells, weights, len(centres)), table, slopes))
    found: list[Floats] = []
    num_units = int(numbers.max()) + 1
    size = max(1, min(100, HELD // len(values)))
    for _ in range(0, draws, size):
        drawn = rng.multinomial(num_units, np.full(num_units, 1 / num_units), size=size).astype(np.float64)
        found.append(_fit(_counts(cells, drawn[:, numbers], len(centres)), table, slopes)[0])
    interval = percentile_interval(float(rate), np.concatenate(found), num_units)
    return LabelNoise(
        interval,
        float(slope),
        float((values > 0).mean() + (values == 0).mean() / 2),
        flip_probabilities(values, float(rate), float(slope)),
        bool(interval.high - interval.low <= WIDE),
    )


def flip_probabilities(margins: Floats, rate: float, slope: float) -> Floats:
    """Return P(the label is flipped | its margin), by Bayes' rule.

    Args:
        margins: [B] margins of the labels, in nats.
        rate: ε.
        slope: κ.
    """
    agrees = _sigmoid(slope * np.asarray(margins, np.float64))
    wrong = rate * (1 - agrees)
    return wrong / (wrong + (1 - rate) * agrees)


def outliers(margins: Floats, limit: float = 6.0) -> NDArray[np.intp]:
    """Return the pairs whose margin is further from the median than `limit` robust standard deviations.

    The robust standard deviation is 1.4826 times the median distance from the median.
    """
    values = np.asarray(margins, np.float64)
    distance = np.abs(values - np.median(values))
    spread = 1.4826 * float(np.median(distance))
    return np.flatnonzero(distance > limit * spread) if spread > 0 else np.empty(0, np.intp)


def _check(values: Floats) -> None:
    problem = ""
    if len(values) < FEW:
        problem = f"{len(values)} pairs; at least {FEW} are needed to estimate the rate of wrong labels"
    elif not np.isfinite(values).all():
        problem = "a margin is not finite"
    elif np.abs(values).max() < SMALLEST:
        problem = f"all margins are below {SMALLEST:g} nats: the policy is the reference"
    if problem:
        raise ConfigError(problem, code="out_of_range", key="margins")


def _cells(values: Floats, sizes: Floats) -> tuple[NDArray[np.intp], Floats]:
    """Return the cell of each pair, and the mean |m| of each bin.

    Bin k has the cells 2k (the label disagrees with the margin) and 2k + 1 (it agrees). A margin of 0 agrees by half;
    its likelihood is ½ in both cells, so either will do.
    """
    edges = np.unique(np.quantile(sizes, np.linspace(0, 1, BINS + 1)[1:-1]))
    bins = np.searchsorted(edges, sizes, side="right")
    used, bins = np.unique(bins, return_inverse=True)
    centres = np.bincount(bins, sizes) / np.bincount(bins)
    assert len(centres) == len(used)
    return 2 * bins + (values > 0), centres


def _log_likelihoods(slopes: Floats, centres: Floats) -> Floats:
    """Return [2K, slopes × rates]: log-probability of each cell for each point of the grid."""
    agrees = _sigmoid(slopes[:, None] * centres)[:, None, :]
    p = RATES[:, None] + (1 - 2 * RATES[:, None]) * agrees
    p = np.clip(p, 1e-12, 1 - 1e-12)
    both = np.stack([np.log1p(-p), np.log(p)], axis=-1)
    return both.reshape(len(slopes) * len(RATES), -1).T


def _counts(cells: NDArray[np.intp], weights: Floats, num_bins: int) -> Floats:
    """Return [D, 2K]: the weight in each cell, for each draw."""
    return np.stack([np.bincount(cells, w, 2 * num_bins) for w in weights])


def _fit(counts: Floats, table: Floats, slopes: Floats) -> tuple[Floats, Floats]:
    """Return the rate and the slope of largest likelihood of each draw."""
    best = np.argmax(counts @ table, axis=1)
    return RATES[best % len(RATES)], slopes[best // len(RATES)]


def _sigmoid(x: Floats) -> Floats:
    return 0.5 * (1 + np.tanh(x / 2))
