"""Compare a policy with its reference by a gold reward: gain, win rate, and the share of the attainable gain.

The gold reward does not depend on any model, so training cannot exploit it. The best that is possible is the tilted
frontier of the reference, computed from reference samples. The policy is compared with it at the same KL.
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
    """A family of policies as a line of reward over KL. Points with too few effective samples are left out."""

    setting: tuple[float, ...]
    """β of the tilt, from ∞ (the reference) downwards, or n of best-of-n."""
    kl: tuple[float, ...]
    """KL to the reference, nats per response."""
    reward: tuple[float, ...]
    """Mean gold reward."""
    low: tuple[float, ...]
    """Lower end of the bootstrap band of the reward."""
    high: tuple[float, ...]
    """Upper end of that band."""

    @classmethod
    def of(cls, curve: AttainmentCurve) -> "Line":
        """Return the points of a curve that are not NaN."""
        known = np.isfinite(curve.reward) & np.isfinite(curve.kl)
        columns = (curve.setting, curve.kl, curve.reward, curve.low, curve.high)
        return cls(*(tuple(column[known].tolist()) for column in columns))


@dataclass(frozen=True)
class Gold:
    """Gold reward of a policy beside that of its reference and the highest that is possible."""

    reward_name: str
    """Short name of the reward, for labels and sentences."""
    levels: tuple[float, ...]
    """All values that the reward can take, ascending."""
    num_prompts: int
    policy_samples: int
    """Samples of the policy per prompt."""
    reference_samples: int
    """Samples of the reference per prompt."""
    attainment: Attainment
    win_rate: Interval
    """Chance that a policy sample has a higher reward than a reference sample of the same prompt; a tie counts ½."""
    tilt: Line
    """The frontier: the highest reward that any policy can have at a given KL."""
    best_of_n: Line
    """Reward and KL of the best of n reference samples."""

    @property
    def label(self) -> str:
        """Name of the reward in a sentence."""
        return "gold reward" if self.reward_name == "gold reward" else f"gold reward ({self.reward_name})"

    @property
    def is_above_frontier(self) -> bool:
        """True if the reward is above what is possible, beyond both intervals. Then a measurement is wrong."""
        return self.attainment.policy.low > self.attainment.attainable.high


def win_rates(policy: ArrayLike, reference: ArrayLike) -> Floats:
    """Return the win rate at each prompt over all pairs of samples; a tie counts ½: rewards [P, n] and [P, m] → [P]."""
    policy, reference = np.asarray(policy, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    rates: Floats = np.heaviside(policy[:, :, None] - reference[:, None, :], 0.5).mean((1, 2))
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
    """Return reward, win rate, KL, frontier and the share of the attainable gain, with intervals over prompts.

    Args:
        policy_rewards: [P, n] gold rewards of the policy's samples.
        policy_kl: [P, n] log π − log π_ref of the same samples, nats (`SampleSet.logps − SampleSet.ref_logps`).
        reference_rewards: [P, m] gold rewards of reference samples of the same prompts; m should be at least 256.
        levels: All values that the reward can take, ascending.
        reward_name: Short name of the reward.
        seed: Seed of the bootstrap.

    Raises:
        ConfigError: the samples are not of the same prompts, or a reward is not one of the levels.
    """
    policy, gaps, reference = (np.asarray(x, dtype=np.float64) for x in (policy_rewards, policy_kl, reference_rewards))
    if policy.ndim != 2 or policy.shape != gaps.shape or reference.ndim != 2 or len(reference) != len(policy):
        raise ConfigError(
            f"policy rewards of shape {policy.shape}, KL {gaps.shape}, reference rewards {reference.shape}: "
            "all must be [prompts, samples] of the same prompts",
            code="other_rows",
        )
    counts = level_counts(reference, levels)
    frontier = measure_frontier(counts, levels, seed=seed)
    return Gold(
        reward_name=reward_name,
        levels=tuple(float(x) for x in np.asarray(levels)),
        num_prompts=len(policy),
        policy_samples=policy.shape[1],
        reference_samples=reference.shape[1],
        attainment=measure_attainment(policy.mean(1), gaps.mean(1), counts, levels, seed=seed),
        win_rate=bootstrap_mean(win_rates(policy, reference), seed=seed),
        tilt=Line.of(frontier.tilt),
        best_of_n=Line.of(frontier.best_of_n),
    )
