"""The reward–KL frontier of any score, from scored samples of the reference: importance weights w ∝ e^{score/β}.

`frontier` computes the same from the masses of a few reward levels. Here every sample has a score of its own. With S
samples of a prompt, w their weights: reward Σ w·s, KL Σ w·log(S·w) (= E[s]/β − log Ẑ), effective samples 1/Σ w². All
prompts have the same β, because a mean reward at a mean KL is maximal so.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from tiltlm.core.errors import ConfigError
from tiltlm.diagnostics.attainment import MIN_EFFECTIVE_SAMPLES, AttainmentCurve
from tiltlm.diagnostics.frontier import FrontierPoint

Floats = NDArray[np.float64]

GRID = 40
"""Values of β."""
DRAWS = 300


def tilt_pool(scores: ArrayLike, betas: ArrayLike, counts: ArrayLike | None = None) -> tuple[FrontierPoint, Floats]:
    """Return reward and KL of the tilt at each β, means over prompts, [G] each, and the effective samples, [G].

    The effective samples are the harmonic mean over prompts, as in `effective_samples`.

    Args:
        scores: [P, S] scores of samples of the reference.
        betas: [G] β > 0; ∞ is the reference.
        counts: [P, S] how often each sample counts, for the bootstrap. None: once.
    """
    values, strengths = np.asarray(scores, dtype=np.float64), 1 / np.atleast_1d(np.asarray(betas, dtype=np.float64))
    times = np.ones_like(values) if counts is None else np.asarray(counts, dtype=np.float64)
    with np.errstate(divide="ignore"):
        logits = strengths[:, None, None] * values + np.log(times)
    norms = logsumexp(logits, axis=-1, keepdims=True)
    weights = np.exp(logits - norms)
    reward = (weights * values).sum(-1)
    log_z = norms[..., 0] - np.log(times.sum(-1))
    kl = np.maximum(strengths[:, None] * reward - log_z, 0.0)
    inverse = np.divide(np.square(weights), times, out=np.zeros_like(weights), where=times > 0).sum(-1).mean(-1)
    return FrontierPoint(reward.mean(-1), kl.mean(-1)), 1 / inverse


def strengths_for(scores: ArrayLike) -> Floats:
    """Return β from ∞ (the reference) downwards, spaced by log 1/β around the spread of the scores within prompts.

    Raises:
        ConfigError: the scores of each prompt are equal, so no tilt changes anything.
    """
    values = np.asarray(scores, dtype=np.float64)
    spread = float(np.sqrt(values.var(axis=1).mean()))
    if not spread > 0:
        raise ConfigError(
            "all samples of a prompt have the same score, so there is no frontier; use a score that tells them apart",
            code="no_variation",
            key="scores",
        )
    return np.concatenate([[np.inf], spread / np.geomspace(0.02, 20, GRID - 1)])


def measure_tilt(
    scores: ArrayLike,
    *,
    betas: ArrayLike | None = None,
    level: float = 0.95,
    seed: int = 0,
    draws: int = DRAWS,
) -> AttainmentCurve:
    """Return the tilted frontier with bootstrap bands of the reward at each KL.

    A point is NaN where the effective samples of a prompt are below `MIN_EFFECTIVE_SAMPLES`. The bootstrap draws
    prompts and, within a prompt, samples.

    Args:
        scores: [P, S] scores of samples of the reference; S should be 256 or more.
        betas: [G] β, descending from ∞; None: `strengths_for(scores)`.
        level: Share of repetitions in which the bands hold the truth.
        seed: Seed of the bootstrap.
        draws: Number of bootstrap draws.

    Raises:
        ConfigError: the scores are not [P, S], not finite, or do not vary.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 2 or values.size == 0 or not np.isfinite(values).all():
        raise ConfigError(
            f"scores of shape {values.shape} must be finite numbers, [prompts, samples]",
            code="wrong_shape",
            key="scores",
        )
    grid = strengths_for(values) if betas is None else np.asarray(betas, dtype=np.float64)
    (reward, kl), effective = tilt_pool(values, grid)
    drawn = effective >= MIN_EFFECTIVE_SAMPLES
    last = int(drawn.argmin()) if not drawn.all() else len(grid)  # the curve ends at the first point with too few
    bands = _rewards_at(values, grid[:last], kl[:last], seed, draws)
    low, high = np.full(len(grid), np.nan), np.full(len(grid), np.nan)
    if last:
        low[:last], high[:last] = np.quantile(bands, [(1 - level) / 2, (1 + level) / 2], axis=0)
    hidden = np.arange(len(grid)) >= last
    return AttainmentCurve(
        setting=grid,
        reward=np.where(hidden, np.nan, reward),
        kl=np.where(hidden, np.nan, kl),
        low=low,
        high=high,
        effective_samples=effective,
    )


def reward_at(curve: AttainmentCurve, kl: float) -> float:
    """Return the frontier's reward at a KL, between its points; NaN beyond its end."""
    known = np.isfinite(curve.reward)
    if not known.any() or kl > curve.kl[known].max():
        return float("nan")
    return float(np.interp(max(kl, 0.0), curve.kl[known], curve.reward[known]))


def _rewards_at(scores: Floats, betas: Floats, kl: Floats, seed: int, draws: int) -> Floats:
    """Return the reward at each KL in each bootstrap draw of prompts and their samples, [draws, G]."""
    rng = np.random.default_rng(seed)
    num_prompts, size = scores.shape
    found = np.empty((draws, len(betas)))
    for d in range(draws):
        picked = scores[rng.integers(num_prompts, size=num_prompts)]
        times = rng.multinomial(size, np.full(size, 1 / size), size=num_prompts)
        point, _ = tilt_pool(picked, betas, times)
        found[d] = np.interp(kl, point.kl, point.reward)
    return found
