"""Means over seeds and prompts at once: both are samples, and each brings errors of its own."""

import math

import numpy as np
from numpy.typing import ArrayLike

from tiltlm.core.errors import ConfigError
from tiltlm.estimates.intervals import Interval


def crossed_mean(values: ArrayLike, *, level: float = 0.95) -> tuple[Interval, float]:
    """Return the mean of a table of seeds and prompts with an interval over both, and the p-value of "it is 0".

    The table is taken to be mean + seed effect + prompt effect + rest. With S seeds, P prompts and mean squares M of
    an analysis of variance, the variance of the mean is (M_seed + M_prompt − M_rest) / (S·P), at least M_rest / (S·P);
    Student's t has Satterthwaite's degrees of freedom. With one seed the interval is over prompts alone.
    Where neither seeds nor prompts differ beyond the rest, it is somewhat too wide.

    Args:
        values: [S, P] one number for each seed and prompt.
        level: Share of repetitions in which the interval holds the truth.

    Raises:
        ConfigError: values is no table with at least one seed and two prompts.

    Source: Satterthwaite 1946, Biometrics Bulletin 2:110.
    """
    from scipy import stats

    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] < 1 or table.shape[1] < 2:
        raise ConfigError(
            f"values of shape {table.shape} must be [seeds, prompts], with at least two prompts",
            code="wrong_shape",
            key="values",
        )
    num_seeds, num_prompts = table.shape
    mean = float(table.mean())
    of_prompts = num_seeds * table.mean(0).var(ddof=1)
    if num_seeds == 1:
        variance, freedom = of_prompts / num_prompts, num_prompts - 1.0
    else:
        of_seeds = num_prompts * table.mean(1).var(ddof=1)
        residual = table - table.mean(0) - table.mean(1)[:, None] + mean
        rest = float((residual**2).sum()) / ((num_seeds - 1) * (num_prompts - 1))
        variance = max(of_seeds + of_prompts - rest, rest) / table.size
        spread = of_seeds**2 / (num_seeds - 1) + of_prompts**2 / (num_prompts - 1)
        spread += rest**2 / ((num_seeds - 1) * (num_prompts - 1))
        freedom = max(1.0, (variance * table.size) ** 2 / spread) if spread > 0 else math.inf
    if not variance > 0:
        return Interval(mean, mean, mean, level, num_prompts), 1.0 if mean == 0 else 0.0
    error = math.sqrt(variance)
    half = float(stats.t.ppf((1 + level) / 2, freedom)) * error
    p_value = float(2 * stats.t.sf(abs(mean) / error, freedom))
    return Interval(mean, mean - half, mean + half, level, num_prompts), p_value
