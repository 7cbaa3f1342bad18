"""Length-controlled win rate: what the win rate would be if both systems' answers were of the same length.

A judge that likes long answers makes the wordier system look better. A logistic regression explains the judgements by
the difference in length and by a constant, and the win rate is read off at difference 0.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tiltlm.core.errors import ConfigError
from tiltlm.core.notes import Note
from tiltlm.diagnostics.comparing.logistic import fit_logistic
from tiltlm.diagnostics.comparing.win_rate import on_grid, shifted, symmetric_interval
from tiltlm.estimates.intervals import Interval

Floats = NDArray[np.float64]

MIN_PROMPTS = 100
"""Fewer prompts are refused: the two coefficients are too uncertain."""
MAX_SHIFT = 1.5
"""Largest |mean Δ| / sd(Δ): beyond it, hardly any prompt has answers of like length."""
RIDGE = (1e-3, 1e-1)
"""Penalty on the constant and on the coefficient of length, in units of prompts: it only keeps fits finite."""
RESAMPLES = 2_000
_CHUNK = 1_000_000


@dataclass(frozen=True)
class LengthControl:
    """The win rate at equal length."""

    rate: Interval
    """σ(constant): the prediction where the two answers have the same length."""
    coefficient: Interval
    """Change of the log-odds of a win per unit of tanh(Δ / sd): above 0, the judge prefers longer answers."""
    mean_gap: float
    """Mean of Δ, first − second, in characters."""
    sd_gap: float


def why_no_length_control(gaps: ArrayLike) -> Note | None:
    """Return the reason why the length-controlled rate of these data is refused; None if it is not.

    Args:
        gaps: [P] difference in length at each prompt, first − second.
    """
    delta = np.asarray(gaps, dtype=np.float64)
    if len(delta) < MIN_PROMPTS:
        return Note(
            f"no length-controlled win rate: {len(delta)} prompts, and it needs at least {MIN_PROMPTS}",
            "too_few_prompts",
        )
    mean, sd = float(delta.mean()), float(delta.std())
    if abs(mean) > MAX_SHIFT * sd:
        return Note(
            f"no length-controlled win rate: lengths differ by {abs(mean):.0f} characters on average with a spread of "
            f"{sd:.0f}, so hardly any prompt has two answers of like length",
            "poor_overlap",
        )
    return None


def length_control(
    values: ArrayLike, gaps: ArrayLike, *, level: float = 0.95, seed: int = 0, resamples: int = RESAMPLES
) -> LengthControl:
    """Fit y ~ σ(constant + b · tanh(Δ / sd(Δ))) and return the prediction at Δ = 0.

    Intervals come from a bootstrap over prompts of the whole fit, sd included.

    Source: Dubois et al. 2024, arXiv 2404.04475. Differences: their model has a term for the difficulty of each
    instruction and two extra runs of the baseline that regularise it; its standard error is that of the fitted
    probabilities, without the uncertainty of the coefficients, and so far too small. Here the penalty is L2.

    Args:
        values: [P] P(first better) at each prompt, the mean over its judgements, ties ½.
        gaps: [P] difference in length at each prompt, first − second, in characters.
        level: Share of repetitions in which the intervals hold the truth.
        seed: Seed of the bootstrap.
        resamples: Bootstrap draws.

    Raises:
        ConfigError: the data are refused by `why_no_length_control`, or the arrays differ in length.
    """
    advantage, delta = np.asarray(values, dtype=np.float64) - 0.5, np.asarray(gaps, dtype=np.float64)
    if advantage.shape != delta.shape:
        raise ConfigError(
            f"{len(advantage)} values but {len(delta)} differences in length; give one of each per prompt",
            code="unequal_lengths",
        )
    if (reason := why_no_length_control(delta)) is not None:
        raise ConfigError(str(reason), code=reason.code, key="gaps")
    n = len(delta)
    point = _fit(advantage, delta, np.arange(n)[None], np.zeros(2))[0]
    rng = np.random.default_rng(seed)
    size = max(1, _CHUNK // n)
    starts = range(0, resamples, size)
    draws = np.concatenate(
        [_fit(advantage, delta, rng.integers(n, size=(min(size, resamples - start), n)), point) for start in starts]
    )
    constant = 0.5 * np.tanh(draws[:, 0] / 2)
    rate = shifted(symmetric_interval(0.5 * float(np.tanh(point[0] / 2)), constant, n, level))
    return LengthControl(
        rate,
        symmetric_interval(float(point[1]), draws[:, 1], n, level),
        float(on_grid(delta.mean())),
        float(on_grid(delta.std())),
    )


def _fit(advantage: Floats, delta: Floats, draw: NDArray[np.intp], start: Floats) -> Floats:
    """Return [D, 2] constant and coefficient of length of each draw of prompts."""
    drawn = delta[draw]
    sd = drawn.std(1, keepdims=True)
    length = np.tanh(drawn / np.where(sd > 0, sd, 1.0))
    one = np.ones_like(length)
    return fit_logistic(np.stack([one, length]).transpose(1, 2, 0), advantage[draw], one, RIDGE, start)
