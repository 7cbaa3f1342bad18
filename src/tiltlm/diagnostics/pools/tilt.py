"""The reward–KL frontier of any score, from scored samples of the reference: importance weights w ∝ e^{score/β}.

`frontier` computes the same from the masses of a few reward levels. Here every sample has a score of its own. With S
samples of a prompt, w their weights: reward Σ w·s, KL Σ w·log(S·w) (= E[s]/β − log Ẑ), effective samples 1/Σ w². All
prompts have the same β, because a mean reward at a mean KL is maximal so.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from tiltlm.core.errors import ConfigError
from tiltlm.diagnostics.attainment import MIN_EFFECTIVE_SAMPLES, AttainmentCurve
from tiltlm.diagnostics.frontier import FrontierPoint
from tiltlm.estimates.intervals import Interval, percentile_interval

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
    low, high = np.full(len(grid), np.nan), np.full(len(grid), np.nan)
    if last:
        bands = _rewards_at(values, grid[:last], kl[:last], seed, draws)
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


def attained_shares(
    scores: ArrayLike,
    rewards: ArrayLike,
    kls: ArrayLike,
    *,
    level: float = 0.95,
    seed: int = 0,
    draws: int = DRAWS,
) -> list[Interval | None]:
    """Return the share of the attainable gain that each policy has: its gain / that of the frontier at its KL.

    1 is on the frontier. The bootstrap draws prompts, and samples of the reference within a prompt. None where the
    frontier is not known at the policy's KL: too few effective samples, or no gain to attain there.

    Args:
        scores: [P, S] scores of samples of the reference.
        rewards: [K, P] mean score of each policy's samples.
        kls: [K, P] KL of each policy at each prompt, nats per response.
        level: Share of repetitions in which the intervals hold the truth.
        seed: Seed of the bootstrap.
        draws: Number of bootstrap draws.
    """
    values = np.asarray(scores, dtype=np.float64)
    own, spent = np.asarray(rewards, dtype=np.float64), np.asarray(kls, dtype=np.float64)
    curve = measure_tilt(values, draws=1)
    known = np.isfinite(curve.reward)
    if not known.any():
        return [None] * len(own)
    last = int(np.searchsorted(curve.kl[known], 2 * max(spent.mean(1).max(), 0.0))) + 1  # beyond it nothing is read
    grid, base = curve.setting[known][: last + 1], values.mean()
    best = np.array([reward_at(curve, kl) for kl in spent.mean(1)])
    estimates = (own.mean(1) - base) / np.where(best > base, best - base, np.nan)
    found = np.full((draws, len(own)), np.nan)
    for d, (picks, point) in enumerate(_resampled(values, grid, seed, draws)):
        reached = np.interp(np.maximum(spent[:, picks].mean(1), 0.0), point.kl, point.reward)
        gain = reached - point.reward[0]
        found[d] = (own[:, picks].mean(1) - point.reward[0]) / np.where(gain > 0, gain, np.nan)
    return [
        percentile_interval(float(estimate), column, len(values), level)
        if np.isfinite(estimate) and np.isfinite(column).all()
        else None
        for estimate, column in zip(estimates, found.T, strict=True)
    ]


def _rewards_at(scores: Floats, betas: Floats, kl: Floats, seed: int, draws: int) -> Floats:
    """Return the reward at each KL in each bootstrap draw of prompts and their samples, [draws, G]."""
    return np.stack([np.interp(kl, point.kl, point.reward) for _, point in _resampled(scores, betas, seed, draws)])


def _resampled(
    scores: Floats, betas: Floats, seed: int, draws: int
) -> Iterator[tuple[NDArray[np.intp], FrontierPoint]]:
    """Yield bootstrap draws of prompts, [P], with the tilt of a draw of their samples, as `tilt_pool` has it.

    The exponentials are the same in all draws, so they are computed once.
    """
    rng = np.random.default_rng(seed)
    num_prompts, size = scores.shape
    strengths, top = 1 / betas, scores.max(1)
    weights = np.exp(strengths[:, None] * (scores - top[:, None])[:, None, :])
    weighted = weights * scores[:, None, :]
    for _ in range(draws):
        picks: NDArray[np.intp] = rng.integers(num_prompts, size=(num_prompts,))
        drawn = rng.integers(size, size=(num_prompts, size)) + size * np.arange(num_prompts)[:, None]
        times = np.bincount(drawn.ravel(), minlength=scores.size).reshape(num_prompts, size, 1).astype(np.float64)
        norms = np.maximum((weights[picks] @ times)[..., 0], np.finfo(np.float64).tiny)
        rewards = (weighted[picks] @ times)[..., 0] / norms
        log_z = strengths * top[picks][:, None] + np.log(norms / size)
        kl = np.maximum(strengths * rewards - log_z, 0.0)
        yield picks, FrontierPoint(rewards.mean(0), kl.mean(0))
