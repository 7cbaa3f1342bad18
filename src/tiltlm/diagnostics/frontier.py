"""The reward–KL frontier: the highest reward that a policy can have at a given KL, and the reward of best-of-n.

A policy that maximises E[r] − β·KL(π‖π_ref) is the tilt π_ref·exp(r/β)/Z. It depends on a response only through its
reward, so the masses of the reward levels under the reference determine it. Within a level the tilt keeps the
proportions of π_ref, so its sequence KL equals the KL between levels. By the data-processing inequality no policy has a
sequence KL below the KL of its levels. The frontier is therefore computed exactly from P prompts × L levels.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tiltlm.core.errors import ConfigError

Floats = NDArray[np.float64]


class FrontierPoint(NamedTuple):
    """Reward and KL of one or several policies, each the mean over prompts."""

    reward: Floats
    """[...] in units of the reward."""
    kl: Floats
    """[...] KL(π‖π_ref), nats per response."""


def level_counts(rewards: ArrayLike, levels: ArrayLike) -> NDArray[np.int64]:
    """Count the samples of each prompt at each reward level: rewards [P, S], levels [L] → counts [P, L].

    Raises:
        ConfigError: a reward is not one of the levels, or there are no samples.
    """
    values, steps = np.atleast_2d(np.asarray(rewards, dtype=np.float64)), _ascending(levels)
    if values.size == 0:
        raise ConfigError(
            "no reference samples; the frontier needs at least one per prompt, and about 256 to be useful",
            code="empty",
            key="rewards",
        )
    index = np.searchsorted(steps, values).clip(max=len(steps) - 1)
    if not (steps[index] == values).all():
        unknown = values[steps[index] != values].flat[0]
        raise ConfigError(
            f"reward {unknown} is not one of the levels {steps.tolist()}; list every value that the reward can take",
            code="unknown_level",
            key="rewards",
        )
    return np.stack([(index == k).sum(1) for k in range(len(steps))], 1)


def masses_of(counts: ArrayLike) -> Floats:
    """Return the probability of each level from its counts: [..., P, L] → [..., P, L]."""
    numbers = np.asarray(counts, dtype=np.float64)
    masses: Floats = numbers / numbers.sum(-1, keepdims=True)
    return masses


def tilted_masses(masses: ArrayLike, levels: ArrayLike, betas: ArrayLike) -> Floats:
    """Return the level masses of π_ref·exp(r/β)/Z: [..., P, L], [L], β [G] → [..., G, P, L]. β = ∞ is the reference."""
    base, steps = _masses(masses), _ascending(levels)
    strength = 1 / _betas(betas)
    # Rewards are taken relative to the highest one with mass, so that exp can underflow but not overflow.
    highest = np.where(base > 0, steps, -np.inf).max(-1, keepdims=True)
    with np.errstate(over="ignore"):
        gaps = np.minimum(steps - highest, 0)[..., None, :, :]
        weights = base[..., None, :, :] * np.exp(strength[:, None, None] * gaps)
    tilts: Floats = weights / weights.sum(-1, keepdims=True)
    return tilts


def best_of_n_masses(masses: ArrayLike, ns: ArrayLike) -> Floats:
    """Return the level masses of the best of n independent draws: [..., P, L], n [G] → [..., G, P, L].

    P(level) = F^n − F⁻^n, where F is the mass of rewards up to and including the level and F⁻ the mass below it. Ties
    are broken at random, which splits the mass of a level as π_ref does.

    Raises:
        ConfigError: an n is below 1.
    """
    base, sizes = _masses(masses), np.asarray(ns, dtype=np.float64)
    if (sizes < 1).any():
        raise ConfigError(
            f"best of {sizes.min():g}: n must be at least 1, which is the reference itself",
            code="out_of_range",
            key="ns",
        )
    up_to = np.cumsum(base, -1)
    up_to = (
        up_to / up_to[..., -1:]
    )  # exactly 1 from the highest level with mass, so that rounding puts no mass above it
    below = np.concatenate([np.zeros_like(up_to[..., :1]), up_to[..., :-1]], -1)
    powers = sizes[:, None, None]
    return up_to[..., None, :, :] ** powers - below[..., None, :, :] ** powers


def reward_and_kl(policy: ArrayLike, masses: ArrayLike, levels: ArrayLike) -> FrontierPoint:
    """Return the means over prompts of E_π[r] and KL(π‖π_ref) over levels: policy and masses [..., P, L] → [...].

    KL = Σ π·log(π/π_ref); a level without mass under π contributes 0.
    """
    mass, base = np.asarray(policy, dtype=np.float64), np.asarray(masses, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(mass > 0, mass * np.log(mass / base), 0.0)
    return FrontierPoint((mass * _ascending(levels)).sum(-1).mean(-1), np.maximum(terms.sum(-1), 0.0).mean(-1))


def tilted(masses: ArrayLike, levels: ArrayLike, betas: ArrayLike) -> FrontierPoint:
    """Return the frontier: reward and KL of the tilted policy at each β, [G] each.

    With λ = 1/β: dE/dλ = Var_λ(r) and dKL/dλ = λ·Var_λ(r), so dE/dKL = β. The curve is concave. It ends at the
    highest level, where KL = −log of its mass.
    """
    base = _masses(masses)
    return reward_and_kl(tilted_masses(base, levels, betas), base[..., None, :, :], levels)


def best_of_n(masses: ArrayLike, levels: ArrayLike, ns: ArrayLike) -> FrontierPoint:
    """Return the exact reward and KL of best-of-n, [G] each; never above the frontier, and KL ≤ log n − (n−1)/n."""
    base = _masses(masses)
    return reward_and_kl(best_of_n_masses(base, ns), base[..., None, :, :], levels)


def effective_samples(counts: ArrayLike, policy: ArrayLike) -> Floats:
    """Return the effective sample size per prompt of the reweighted reference samples, [G].

    It is the number of draws from the policy that would be as precise. At one prompt with S samples, (Σ w)²/Σ w² with
    weights w = π/π_ref is S/Σ_l(π_l²/π_ref,l). The error of a mean over prompts is a mean of 1/ESS, so the result
    is the harmonic mean over prompts: prompts with many effective samples do not hide one with few.

    Args:
        counts: [P, L] reference samples of each level.
        policy: [G, P, L] level masses of the reweighted policies.
    """
    numbers = np.asarray(counts, dtype=np.float64)
    base = masses_of(numbers)
    ratio = np.divide(np.square(policy), base, out=np.zeros(np.shape(policy)), where=base > 0)
    inverse: Floats = (ratio.sum(-1) / numbers.sum(-1)).mean(-1)
    return 1 / inverse


def attainable(masses: ArrayLike, levels: ArrayLike, kl: ArrayLike) -> Floats:
    """Return the highest mean reward of any policy whose mean KL is at most `kl`: number → number, [G] → [G]."""
    reward = tilted(masses, levels, beta_spending(masses, levels, kl)).reward
    return reward if np.ndim(kl) else reward[0]


def beta_spending(masses: ArrayLike, levels: ArrayLike, kl: ArrayLike) -> Floats:
    """Return the β whose tilt has this mean KL over prompts, [G], by bisection on log 1/β. It is always positive.

    Maximising mean_x E[r] under mean_x KL ≤ k has the Lagrangian mean_x (E[r] − β·KL) + β·k. It separates by prompt, so
    all prompts are tilted by the same β, although their KL differs. Beyond the largest KL of the frontier β is so small
    that only the highest level has mass.

    Raises:
        ConfigError: a KL is negative, as a noisy estimate can be; clip it first.
    """
    base, steps = _masses(masses), _ascending(levels)
    target = np.atleast_1d(np.asarray(kl, dtype=np.float64))
    if not (target >= 0).all():
        raise ConfigError(
            f"a KL of {target.min():g} nats is below 0, which no divergence is; clip a noisy estimate at 0 first",
            code="negative",
            key="kl",
        )
    spread = steps[-1] - steps[0]
    low, high = np.full(target.shape, math.log(1e-9 / spread)), np.full(target.shape, math.log(1e4 / spread))
    for _ in range(80):
        middle = (low + high) / 2
        below = tilted(base, steps, np.exp(-middle)).kl < target
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    beta: Floats = np.exp(-(low + high) / 2)
    return beta


def beta_grid(levels: ArrayLike, size: int = 80) -> Floats:
    """Return β from ∞ (the reference) down to a tilt with nearly all mass on the highest level, spaced by log 1/β."""
    steps = _ascending(levels)
    gaps = np.diff(steps)
    strengths = np.geomspace(0.02 / (steps[-1] - steps[0]), 20 / gaps.min(), size - 1)
    return np.concatenate([[np.inf], 1 / strengths])


def _ascending(levels: ArrayLike | Sequence[float]) -> Floats:
    steps = np.asarray(levels, dtype=np.float64)
    if steps.ndim != 1 or len(steps) < 2 or not (np.diff(steps) > 0).all():
        raise ConfigError(
            f"levels {steps.tolist()} must be two or more rewards in ascending order",
            code="not_ascending",
            key="levels",
        )
    return steps


def _betas(betas: ArrayLike) -> Floats:
    values = np.atleast_1d(np.asarray(betas, dtype=np.float64))
    if not (values > 0).all():
        raise ConfigError(
            f"beta {values.min():g}: a tilt needs β > 0 (infinity is the reference)", code="not_positive", key="betas"
        )
    return values


def _masses(masses: ArrayLike) -> Floats:
    base = np.asarray(masses, dtype=np.float64)
    if base.ndim < 2 or (base < 0).any() or not np.allclose(base.sum(-1), 1, rtol=0, atol=1e-9):
        raise ConfigError(
            f"masses of shape {base.shape} must be [P, L] probabilities that sum to 1 at each prompt",
            code="not_probabilities",
            key="masses",
        )
    return base
