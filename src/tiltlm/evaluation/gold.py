"""A policy in a world whose reward is known: what it gained, how often it wins, and what was to be had.

The gold reward is independent of every model, so nothing here can be gamed by training. What is possible is the tilted
frontier of the reference, computed from its samples; the policy is placed on it with both intervals.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tiltlm.core import ConfigError
from tiltlm.diagnostics import (
    Attainment,
    AttainmentCurve,
    Interval,
    bootstrap_mean,
    level_counts,
    measure_attainment,
    measure_frontier,
)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """A family of policies as a line of reward over KL; where the reference samples are too few, there is no point."""

    setting: tuple[float, ...]
    """β of the tilt, from ∞ (the reference) down, or n of best-of-n."""
    kl: tuple[float, ...]
    """Nats per response."""
    reward: tuple[float, ...]
    low: tuple[float, ...]
    """Lower end of the bootstrap band."""
    high: tuple[float, ...]

    @classmethod
    def of(cls, curve: AttainmentCurve) -> "Line":
        """The points of a curve that are known."""
        known = np.isfinite(curve.reward) & np.isfinite(curve.kl)
        columns = (curve.setting, curve.kl, curve.reward, curve.low, curve.high)
        return cls(*(tuple(column[known].tolist()) for column in columns))


@dataclass(frozen=True)
class Gold:
    """Gold reward of a policy beside its reference and beside what is possible."""

    reward_name: str
    """What the reward counts, in a word or two, for the axes of a plot."""
    levels: tuple[float, ...]
    """The values a reward can take, ascending."""
    num_prompts: int
    policy_samples: int
    """A prompt."""
    reference_samples: int
    """A prompt."""
    attainment: Attainment
    win_rate: Interval
    """Chance that a policy sample has a higher reward than a reference sample to the same prompt, a tie ½."""
    tilt: Line
    """The frontier: the most reward that any policy can have at a KL."""
    best_of_n: Line

    @property
    def is_above_frontier(self) -> bool:
        """Whether the policy has more than is possible, beyond both intervals: then a measurement is wrong."""
        return self.attainment.policy.low > self.attainment.attainable.high


def win_rates(policy: ArrayLike, reference: ArrayLike) -> Floats:
    """Win rate at each prompt over all pairs of samples, a tie ½: rewards [P, n] and [P, m] → [P]."""
    ours, theirs = np.asarray(policy, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    rates: Floats = np.heaviside(ours[:, :, None] - theirs[:, None, :], 0.5).mean((1, 2))
    return rates


def compare_gold(
    policy_rewards: ArrayLike,
    policy_kl: ArrayLike,
    reference_rewards: ArrayLike,
    levels: ArrayLike,
    *,
    reward_name: str = "gold reward",
    seed: int = 0,
) -> Gold:
    """Reward, win rate, KL, frontier and the share of the attainable gain, with intervals by prompt.

    Args:
        policy_rewards: [P, n] gold rewards of the policy's samples.
        policy_kl: [P, n] log π − log π_ref of the same samples, nats (`Draws.logps − Draws.ref_logps`).
        reference_rewards: [P, m] gold rewards of the reference's samples to the same prompts; 256 or more a prompt.
        levels: Every value a reward can take, ascending.
        reward_name: What the reward counts.
        seed: Of the bootstrap.

    Raises:
        ConfigError: the samples are not of the same prompts, or a reward is none of the levels.
    """
    ours, spent, theirs = (np.asarray(x, dtype=np.float64) for x in (policy_rewards, policy_kl, reference_rewards))
    if ours.ndim != 2 or ours.shape != spent.shape or theirs.ndim != 2 or len(theirs) != len(ours):
        raise ConfigError(
            f"rewards {ours.shape} and KL {spent.shape} of the policy, rewards {theirs.shape} of the reference: "
            "give [prompts, samples] of the same prompts",
            code="other_rows",
        )
    counts = level_counts(theirs, levels)
    frontier = measure_frontier(counts, levels, seed=seed)
    return Gold(
        reward_name=reward_name,
        levels=tuple(float(x) for x in np.asarray(levels)),
        num_prompts=len(ours),
        policy_samples=ours.shape[1],
        reference_samples=theirs.shape[1],
        attainment=measure_attainment(ours.mean(1), spent.mean(1), counts, levels, seed=seed),
        win_rate=bootstrap_mean(win_rates(ours, theirs), seed=seed),
        tilt=Line.of(frontier.tilt),
        best_of_n=Line.of(frontier.best_of_n),
    )
