"""Sequence KL: how far a policy moved from its reference, KL(π‖π_ref) over whole responses.

It is measured on the policy's own samples. Log-ratios on the pairs of a data set are no KL: they can be negative, and
they can fall while the true KL rises. Samples at another temperature come from another distribution. Both are refused.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tiltlm.core.errors import ConfigError
from tiltlm.estimates.intervals import Interval, bootstrap_mean


@dataclass(frozen=True)
class SequenceKL:
    """Two estimates of one divergence, in nats per response, with intervals over prompts."""

    k1: Interval
    """Mean of log π − log π_ref: unbiased, the main estimate. At single prompts it may be negative."""
    k3: Interval
    """Mean of e^{−d} − 1 + d, d = log π − log π_ref: unbiased and never negative, but heavy-tailed where π ≪ π_ref.
    If the two estimates differ much, the samples are too few."""
    cut_share: float
    """Share of samples that were cut before their end. Above 0, this is the KL of the texts up to the cut: a lower
    bound of the sequence KL."""


def sequence_kl(
    logps: ArrayLike,
    ref_logps: ArrayLike,
    prompts: ArrayLike,
    *,
    temperature: float,
    ended: ArrayLike,
    allow_cut: bool = False,
    level: float = 0.95,
    seed: int = 0,
) -> SequenceKL:
    """Estimate KL(π‖π_ref) = E_{y~π}[log π(y|x) − log π_ref(y|x)], averaged over prompts.

    Args:
        logps: [M] log-probability of each sample under the policy that drew it, nats per response.
        ref_logps: [M] the same responses under the reference.
        prompts: [M] the prompt of each sample. Intervals are over prompts.
        temperature: The temperature at which the samples were drawn from the full vocabulary; it must be 1.
        ended: [M] True where a sample ended by itself.
        allow_cut: Accept samples that were cut; `cut_share` says how many.
        level: Share of repetitions in which the intervals hold the truth.
        seed: Seed of the bootstrap over prompts.

    Raises:
        ConfigError: samples were drawn at another temperature, or were cut and `allow_cut` is off, or the arrays
            differ in length.
    """
    if temperature != 1.0:
        raise ConfigError(
            f"samples at temperature {temperature} do not come from the distribution of the log-probabilities; "
            "draw them at temperature 1, without top-k or top-p",
            code="wrong_temperature",
            key="temperature",
        )
    cut = ~np.asarray(ended, dtype=bool)
    if cut.any() and not allow_cut:
        raise ConfigError(
            f"{cut.sum()} of {cut.size} samples were cut before their end, so their KL is only a lower bound; "
            "raise the limit on new tokens, or pass allow_cut=True to get that bound",
            code="cut_samples",
            key="allow_cut",
        )
    gap = np.asarray(logps, dtype=np.float64) - np.asarray(ref_logps, dtype=np.float64)
    if gap.shape != cut.shape:
        raise ConfigError(
            f"there are {gap.size} log-ratios and {cut.size} values of `ended`; both must have one value per sample",
            code="unequal_lengths",
            key="ended",
        )
    return SequenceKL(
        k1=bootstrap_mean(gap, prompts, level=level, seed=seed),
        k3=bootstrap_mean(np.expm1(-gap) + gap, prompts, level=level, seed=seed),
        cut_share=float(cut.mean()),
    )
