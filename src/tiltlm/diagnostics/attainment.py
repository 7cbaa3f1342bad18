"""How a policy compares with what is possible: the frontier with its bands, and the share of the attainable gain.

Level masses come from a finite number of reference samples, so everything here carries a bootstrap over prompts and,
within a prompt, over its samples. Where a reweighting of the samples is worth too few of them, nothing is shown.
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
from tiltlm.diagnostics.intervals import Interval, percentile_interval

MIN_EFFECTIVE_SAMPLES = 50.0
NS = (1, 2, 4, 8, 16, 32, 64)
_DRAWS = 1_000
_CHUNK = 4_000_000  # numbers of one array held at once: 32 MB


@dataclass(frozen=True, eq=False)
class AttainmentCurve:
    """Policies of one family, from the reference on. NaN where the samples are too few to say."""

    setting: Floats
    """[G] β of the tilt (∞ first), or n of best-of-n (1 first)."""
    reward: Floats
    """[G] mean over prompts."""
    kl: Floats
    """[G] nats per response."""
    low: Floats
    """[G] lower end of the reward's band at this KL (tilt) or at this n (best-of-n)."""
    high: Floats
    effective_samples: Floats
    """[G] what the reference samples of a prompt are worth here."""


@dataclass(frozen=True)
class Frontier:
    """The tilted frontier and the best-of-n curve of one reference on one set of prompts."""

    tilt: AttainmentCurve
    best_of_n: AttainmentCurve
    num_prompts: int
    samples_per_prompt: int


@dataclass(frozen=True)
class Attainment:
    """A policy beside the best that any policy could do at the KL it spent. Rewards are means over prompts."""

    reference: Interval
    """Gold reward of the reference."""
    policy: Interval
    gain: Interval
    """Policy minus reference, on the same prompts."""
    kl: Interval
    """Sequence KL(π‖π_ref), nats per response."""
    attainable: Interval
    """The frontier's reward at the policy's KL."""
    share: Interval
    """gain / (attainable − reference); 1 on the frontier."""
    effective_samples: float
    """What the reference samples of a prompt are worth at this tilt; below `MIN_EFFECTIVE_SAMPLES` doubt the share."""


def measure_frontier(
    counts: ArrayLike,
    levels: ArrayLike,
    *,
    ns: tuple[int, ...] = NS,
    level: float = 0.95,
    seed: int = 0,
    draws: int = _DRAWS,
) -> Frontier:
    """Both curves with bands from the counts [P, L] of reference samples at each reward level [L].

    A point is NaN where its effective samples fall below `MIN_EFFECTIVE_SAMPLES`.
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
    return Frontier(tilt, best, len(numbers), int(numbers.sum(-1).min()))


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
    """The policy's reward, gain and KL, and the share of the gain that was to be had at that KL.

    Args:
        policy_rewards: [P] mean reward of the policy's samples at each prompt.
        policy_kl: [P] estimate of the sequence KL at each prompt, nats; single prompts may be negative.
        counts: [P, L] reference samples at each reward level, the same prompts in the same order.
        levels: [L] rewards in ascending order.

    Raises:
        ConfigError: the shapes do not name the same prompts.
    """
    rewards, spent = np.asarray(policy_rewards, dtype=np.float64), np.asarray(policy_kl, dtype=np.float64)
    numbers, steps = np.asarray(counts), np.asarray(levels, dtype=np.float64)
    if not rewards.shape == spent.shape == numbers.shape[:1]:
        raise ConfigError(
            f"policy rewards {rewards.shape}, KL {spent.shape} and counts {numbers.shape} are not of the same prompts",
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
    """Bootstrap draws of prompts [D, P], and of the samples of each [D, P, L]."""
    rng = np.random.default_rng(seed)
    picks = rng.integers(len(counts), size=(draws, len(counts)))
    return picks, rng.multinomial(counts.sum(-1)[picks], masses_of(counts)[picks])


def _at_kl(masses: Floats, steps: Floats, kl: Floats) -> Floats:
    """The frontier's reward at given KL for each of D draws: masses [D, P, L], kl [K] or [D, K] → [D, K].

    Linear between the points of the β grid, which lies below the concave curve by some thousandths of the gain.
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
