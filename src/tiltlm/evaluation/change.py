"""A number before and after training, with intervals over prompts.

Both measurements are of the same rows, so they share every bootstrap draw. Variation between prompts cancels in the
difference, so its interval is narrower than the two others suggest.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tiltlm.diagnostics import Interval, bootstrap, unit_means

Floats = NDArray[np.float64]
IndexStatistic = Callable[[NDArray[np.intp]], Floats]
"""Function from indices [D, P] of the prompts in each of D draws to the statistic of each draw, [D]."""

RESAMPLES = 10_000
SORTED_RESAMPLES = 2_000
"""For statistics that rank all responses in every draw: each costs far more than a mean."""


@dataclass(frozen=True)
class Change:
    """One number before and after training, and the paired difference after − before."""

    before: Interval
    after: Interval
    difference: Interval

    @classmethod
    def of(
        cls, before: IndexStatistic, after: IndexStatistic, num_prompts: int, *, seed: int, resamples: int = RESAMPLES
    ) -> "Change":
        """Return one statistic of two measurements, and its paired difference.

        Args:
            before: Statistic of the measurement before training.
            after: The same statistic of the measurement after training.
            num_prompts: P, the number of prompts to draw from.
            seed: Seed of the draws.
            resamples: Number of draws, D.
        """

        def interval(statistic: IndexStatistic) -> Interval:
            return bootstrap(statistic, num_prompts, seed=seed, resamples=resamples)

        return cls(interval(before), interval(after), interval(lambda draw: after(draw) - before(draw)))


def mean_by_prompt(values: ArrayLike, prompt: NDArray[np.intp]) -> IndexStatistic:
    """Return a statistic: the mean over prompts of the mean of each prompt's values.

    Args:
        values: [B] numbers.
        prompt: [B] number of the prompt of each value.
    """
    means = unit_means(values, prompt)
    return lambda draw: means[draw].mean(1)


def ratio_by_prompt(numerators: ArrayLike, denominators: ArrayLike, prompt: NDArray[np.intp]) -> IndexStatistic:
    """Return a statistic: Σ numerators / Σ denominators over the rows of the drawn prompts.

    It is NaN for a draw whose denominators sum to 0.

    Args:
        numerators: [B] numbers.
        denominators: [B] numbers, at least 0.
        prompt: [B] number of the prompt of each row.
    """
    top, bottom = np.bincount(prompt, numerators), np.bincount(prompt, denominators)
    return lambda draw: _ratio(top[draw].sum(1), bottom[draw].sum(1))


def _ratio(top: Floats, bottom: Floats) -> Floats:
    ratios: Floats = np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)
    return ratios


def area_by_prompt(values: ArrayLike, desirable: NDArray[np.bool_], prompt: NDArray[np.intp]) -> IndexStatistic:
    """Return a statistic: the chance that a desirable row has a higher value than an undesirable one.

    This is the area under the ROC curve, Σ_{i∈D, j∈U} ([v_i > v_j] + ½[v_i = v_j]) / (|D|·|U|), over the rows of the
    drawn prompts. It is NaN for a draw without desirable or without undesirable rows.

    Args:
        values: [B] numbers.
        desirable: [B] True for desirable rows.
        prompt: [B] number of the prompt of each row.
    """
    numbers = np.asarray(values, dtype=np.float64)
    order = np.argsort(numbers, kind="stable")
    good, unit, ordered = desirable[order], prompt[order], numbers[order]
    groups = np.flatnonzero(np.concatenate([[True], ordered[1:] > ordered[:-1]]))  # start of each run of equal values
    num_prompts = int(prompt.max()) + 1

    def statistic(draw: NDArray[np.intp]) -> Floats:
        cells = draw + num_prompts * np.arange(len(draw))[:, None]
        times = np.bincount(cells.ravel(), minlength=num_prompts * len(draw)).reshape(len(draw), num_prompts)
        weight = times[:, unit].astype(np.float64)
        wins = np.add.reduceat(weight * good, groups, axis=1)
        losses = np.add.reduceat(weight * ~good, groups, axis=1)
        beaten = np.cumsum(losses, axis=1) - losses / 2
        return _ratio((wins * beaten).sum(1), wins.sum(1) * losses.sum(1))

    return statistic
