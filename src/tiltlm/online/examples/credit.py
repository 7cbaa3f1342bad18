"""Credit rules: the advantages of a prompt's samples, from their rewards. Pure functions.

R has one reward a sample, higher is better: its score, or its win rate where the judge compares. All sums run over the
samples of one prompt that have a reward.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tiltlm.core.errors import ConfigError
from tiltlm.estimates.intervals import Floats

STANDARD = 1e-4
"""Added to a standard deviation before it divides."""

CreditRule = Callable[[Floats, Floats], Floats]
"""(R [K], lengths in tokens [K]) → advantages [K]."""


class CreditKind(NamedTuple):
    """One credit rule."""

    rule: CreditRule
    meaning: str
    min_samples: int = 2
    """Samples of a prompt that it needs at least."""


def score(rewards: Floats, lengths: Floats) -> Floats:
    """Return R itself: no baseline. The objective may whiten it."""
    del lengths
    return rewards


def mean(rewards: Floats, lengths: Floats) -> Floats:
    """Return R − mean R, which is (K − 1)/K times `loo`."""
    del lengths
    return np.asarray(rewards - rewards.mean())


def loo(rewards: Floats, lengths: Floats) -> Floats:
    """Return R_i − mean of the other samples: an unbiased policy gradient with the least noise of these rules."""
    return np.asarray(mean(rewards, lengths) * len(rewards) / (len(rewards) - 1))


def group_std(rewards: Floats, lengths: Floats) -> Floats:
    """Return (R − mean R) / (std R + 1e-4), with the standard deviation of the K samples as a population."""
    return np.asarray(mean(rewards, lengths) / (rewards.std() + STANDARD))


def max_rl(rewards: Floats, lengths: Floats) -> Floats:
    """Return (R − mean R) / mean R, and 0 where all rewards are 0.

    For right and wrong answers its expected gradient is that of −Σ_{j<K} (1 − p)^j / j, which tends to that of log p.

    Raises:
        ConfigError: A reward is below 0.
    """
    if rewards.min() < 0:
        raise ConfigError(
            f"examples.rule is max_rl, and a reward is {rewards.min():g}; it divides by the mean, so rewards must be "
            "at least 0",
            code="out_of_range",
            key="examples.rule",
        )
    total = rewards.mean()
    return np.asarray(mean(rewards, lengths) / total if total else np.zeros_like(rewards))


def opo(rewards: Floats, lengths: Floats) -> Floats:
    """Return R − Σ T R / Σ T, with the lengths T of the samples: the baseline of least variance for long samples."""
    return np.asarray(rewards - (lengths * rewards).sum() / lengths.sum())


CREDIT: Mapping[str, CreditKind] = {
    "score": CreditKind(score, "R itself", 1),
    "mean": CreditKind(mean, "R − mean R (Dr. GRPO, arXiv 2503.20783)"),
    "loo": CreditKind(loo, "R − mean of the others (RLOO, arXiv 2402.14740)"),
    "group_std": CreditKind(group_std, "(R − mean R) / std R (GRPO, arXiv 2402.03300)"),
    "max_rl": CreditKind(max_rl, "(R − mean R) / mean R (MaxRL, arXiv 2602.02710)"),
    "opo": CreditKind(opo, "R − mean R weighted by length (OPO, arXiv 2505.23585)"),
}
"""Rules that read one prompt, by their names."""


def batch_std(groups: Sequence[tuple[Floats, Floats]]) -> list[Floats]:
    """Return (R − mean R of the prompt) / (std of all rewards of the round + 1e-4).

    Args:
        groups: Rewards and lengths of each prompt.
    """
    together = np.concatenate([rewards for rewards, _ in groups])
    return [np.asarray(mean(rewards, lengths) / (together.std() + STANDARD)) for rewards, lengths in groups]


def running_mean(groups: Sequence[tuple[Floats, Floats]], past: Sequence[float], rate: float) -> list[Floats]:
    """Return R − b, b the moving average of the mean rewards of earlier rounds.

    In the first round b is the mean reward of the other prompts, so that no sample is in its own baseline.

    Args:
        groups: Rewards and lengths of each prompt.
        past: Mean reward of each earlier round.
        rate: Weight of the newest round in the average.
    """
    if past:
        baseline = past[0]
        for value in past[1:]:
            baseline += rate * (value - baseline)
        return [np.asarray(rewards - baseline) for rewards, _ in groups]
    sums, counts = (np.array([f(rewards) for rewards, _ in groups], dtype=np.float64) for f in (np.sum, len))
    others = counts.sum() - counts
    baselines = np.where(others > 0, (sums.sum() - sums) / np.maximum(others, 1), 0.0)
    return [np.asarray(rewards - b) for (rewards, _), b in zip(groups, baselines, strict=True)]


BELOW_BOTH = -math.log(16)
"""J-BOND's reward of a sample that is below both anchor samples; its mean approximates the log of the quantile.

Source: Sessa et al. 2024, arXiv 2407.14622 (J-BOND)."""


def soft_value(scores: Floats, beta: float) -> float:
    """Return β log mean e^(s/β), an estimate of the optimal value of a prompt from scores of the reference's samples.

    Source: Brantley et al. 2025, arXiv 2505.20686.
    """
    scaled = scores / beta
    highest = float(scaled.max())
    return beta * (highest + math.log(float(np.exp(scaled - highest).mean())))
