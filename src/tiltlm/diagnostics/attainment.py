"""A policy beside the reward–KL frontier: the frontier with bands, and the policy's share of the attainable gain.

Level masses come from a finite number of reference samples, so all intervals are a bootstrap over prompts and, within a
prompt, over its samples. Points with too few effective samples are NaN.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tiltlm.core.errors import ConfigError
from tiltlm.diagnostics.frontier import (
    Floats,
    best_of_n_masses,
    beta_grid,
    beta_spending,
    effective_samples,
    masses_of,
    reward_and_kl,
    tilted_masses,
)
from tiltlm.estimates.intervals import Interval, percentile_interval

MIN_EFFECTIVE_SAMPLES = 50.0
NS = (1, 2, 4, 8, 16, 32, 64)
_DRAWS = 1_000
_CHUNK = 4_000_000  # numbers of one array held at once: 32 MB


@dataclass(frozen=True, eq=False)
class AttainmentCurve:
    """Policies of one family, starting at the reference. NaN where the effective samples are too few."""

    setting: Floats
    """[G] β of the tilt (∞ first), or n of best-of-n (1 first)."""
    reward: Floats
    """[G] mean over prompts."""
    kl: Floats
    """[G] nats per response."""
    low: Floats
    """[G] lower end of the band of the reward at this KL (tilt) or at this n (best-of-n)."""
    high: Floats
    """[G] upper end of that band."""
    effective_samples: Floats
    """[G] effective sample size of a prompt's reference samples after reweighting."""


@dataclass(frozen=True)
class Frontier:
    """The tilted frontier and the best-of-n curve of one reference on one set of prompts."""

    tilt: AttainmentCurve
    best_of_n: AttainmentCurve


@dataclass(frozen=True)
class Attainment:
    """A policy beside the best policy at the same KL. Rewards are means over prompts."""

    reference: Interval
    """Gold reward of the reference."""
    policy: Interval
    """Gold reward of the policy."""
    gain: Interval
    """Reward of the policy − reward of the reference, on the same prompts."""
    kl: Interval
    """Sequence KL(π‖π_ref), nats per response."""
    attainable: Interval
    """The frontier's reward at the policy's KL."""
    share: Interval
    """gain / (attainable − reference); 1 on the frontier."""
    effective_samples: float
    """Effective sample size of a prompt's reference samples at this KL. Below `MIN_EFFECTIVE_SAMPLES` the share is
    unreliable."""


def measure_frontier(
    counts: ArrayLike,
    levels: ArrayLike,
    *,
    ns: tuple[int, ...] = NS,
    level: float = 0.95,
    seed: int = 0,
    draws: int = _DRAWS,
) -> Frontier:
    """Return the frontier and the best-of-n curve with bootstrap bands.

    A point is NaN where its effective samples are below `MIN_EFFECTIVE_SAMPLES`.

    Args:
        counts: [P, L] reference samples at each reward level.
        levels: [L] rewards in ascending order.
        ns: The n of best-of-n.
        level: Share of repetitions in which the bands hold the truth.
        seed: Seed of the bootstrap.
        draws: Number of bootstrap draws.
    """
    numbers, steps = np.asarray(counts), np.asarray(levels, dtype=np.float64)
    base, betas, sizes = masses_of(numbers), beta_grid(steps), np.asarray(ns, dtype=np.float64)
    resampled = masses_of(_resample(numbers, seed, draws)[1])
    ends = [(1 - level) / 2, (1 + level) / 2]

    tilts = tilted_masses(base, steps, betas)
    reward, kl = reward_and_kl(tilts, base, steps)
    at_kl = _at_kl(resampled, steps, kl)
    tilt = _curve(betas, reward, kl, np.quantile(at_kl, ends, axis=0), effective_samples(numbers, tilts))

    bests = best_of_n_masses(base, sizes)
    reward, kl = reward_and_kl(bests, base, steps)
    at_n = (best_of_n_masses(resampled, sizes) @ steps).mean(-1)
    best = _curve(sizes, reward, kl, np.quantile(at_n, ends, axis=0), effective_samples(numbers, bests))
    return Frontier(tilt, best)


def measure_attainment(
    policy_rewards: ArrayLike,
    policy_kl: ArrayLike,
    counts: ArrayLike,
    levels: ArrayLike,
    *,
    level: float = 0.95,
    seed: int = 0,
    draws: int = _DRAWS,
) -> Attainment:
    """Return the reward, gain and KL of a policy, and its share of the gain that is attainable at that KL.

    Args:
        policy_rewards: [P] mean reward of the policy's samples at each prompt.
        policy_kl: [P] estimate of the sequence KL at each prompt, nats. At single prompts it may be negative.
        counts: [P, L] reference samples at each reward level, the same prompts in the same order.
        levels: [L] rewards in ascending order.
        level: Share of repetitions in which the intervals hold the truth.
        seed: Seed of the bootstrap.
        draws: Number of bootstrap draws.

    Raises:
        ConfigError: the numbers of prompts differ.
    """
    rewards, spent = np.asarray(policy_rewards, dtype=np.float64), np.asarray(policy_kl, dtype=np.float64)
    numbers, steps = np.asarray(counts), np.asarray(levels, dtype=np.float64)
    if not rewards.shape == spent.shape == numbers.shape[:1]:
        raise ConfigError(
            f"policy rewards of shape {rewards.shape}, KL {spent.shape}, counts {numbers.shape}: "
            "all must be of the same prompts",
            code="other_rows",
        )
    base = masses_of(numbers)
    reference, policy, kl = (base @ steps).mean(), rewards.mean(), max(spent.mean(), 0.0)
    tilt = tilted_masses(base, steps, beta_spending(base, steps, kl))
    best = float(reward_and_kl(tilt, base, steps).reward[0])

    picks, resampled_counts = _resample(numbers, seed, draws)
    resampled = masses_of(resampled_counts)
    references, policies = (resampled @ steps).mean(-1), rewards[picks].mean(-1)
    kls = np.maximum(spent[picks].mean(-1), 0.0)
    at_own_kl, at_this_kl = _at_kl(resampled, steps, np.stack([kls, np.full(draws, kl)], 1)).T

    def interval(estimate: float, values: Floats) -> Interval:
        return percentile_interval(estimate, values, len(numbers), level)

    with np.errstate(divide="ignore", invalid="ignore"):
        return Attainment(
            reference=interval(reference, references),
            policy=interval(policy, policies),
            gain=interval(policy - reference, policies - references),
            kl=interval(spent.mean(), spent[picks].mean(-1)),
            attainable=interval(best, at_this_kl),
            share=interval(
                float(np.divide(policy - reference, best - reference)),
                (policies - references) / (at_own_kl - references),
            ),
            effective_samples=float(effective_samples(numbers, tilt)[0]),
        )


def _resample(counts: NDArray[np.int64], seed: int, draws: int) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Draw prompts [D, P] and, for each drawn prompt, counts of its samples [D, P, L]."""
    rng = np.random.default_rng(seed)
    picks = rng.integers(len(counts), size=(draws, len(counts)))
    return picks, rng.multinomial(counts.sum(-1)[picks], masses_of(counts)[picks])


def _at_kl(masses: Floats, steps: Floats, kl: Floats) -> Floats:
    """Return the frontier's reward at given KL for each of D draws: masses [D, P, L], kl [K] or [D, K] → [D, K].

    Between the points of the β grid it is linear. It is then below the concave curve by some thousandths of the gain.
    """
    betas = beta_grid(steps)
    wanted = np.broadcast_to(kl, (len(masses), np.shape(kl)[-1]))
    size = max(1, _CHUNK // (len(betas) * masses[0].size))
    rows = []
    for start in range(0, len(masses), size):
        part = slice(start, start + size)
        base = masses[part]
        curve = reward_and_kl(tilted_masses(base, steps, betas), base[:, None], steps)
        rows += [np.interp(w, k, r) for w, k, r in zip(wanted[part], curve.kl, curve.reward, strict=True)]
    return np.stack(rows)


def _curve(setting: Floats, reward: Floats, kl: Floats, band: Floats, ess: Floats) -> AttainmentCurve:
    shown = ess >= MIN_EFFECTIVE_SAMPLES
    hidden = [np.where(shown, values, np.nan) for values in (reward, kl, band[0], band[1])]
    return AttainmentCurve(setting, hidden[0], hidden[1], hidden[2], hidden[3], ess)
