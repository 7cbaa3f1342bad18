"""How far the policy went: KL(π‖π_ref) over whole responses, measured on the policy's own samples.

Log-ratios on the pairs of a data set are no KL: they can be negative and fall while the true KL rises. Samples drawn at
another temperature are samples of another distribution. So both are refused here.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tiltlm.core.errors import ConfigError
from tiltlm.diagnostics.intervals import Floats, Interval, bootstrap_mean, unit_means


@dataclass(frozen=True)
class SequenceKL:
    """Two estimates of one divergence, in nats per response, with intervals over prompts."""

    k1: Interval
    """Mean of log π − log π_ref: unbiased, the headline; single prompts may be negative."""
    k3: Interval
    """Mean of e^{−d} − 1 + d, d = log π − log π_ref: unbiased and never negative, but heavy-tailed where π ≪ π_ref.
    The two agree when all is well."""
    per_prompt: Floats
    """[P] k1 of each prompt, in the order of the sorted prompts."""
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
    """KL(π‖π_ref) = E_{y~π}[log π(y|x) − log π_ref(y|x)], averaged over prompts.

    Args:
        logps: [M] log-probability of each sample under the policy that drew it, nats per response.
        ref_logps: [M] the same responses under the reference.
        prompts: [M] which prompt each sample answers: the unit of the intervals.
        temperature: At which they were drawn, from the full vocabulary; only 1 will do.
        ended: [M] whether each sample ended by itself.
        allow_cut: Take samples that were cut, for what they are (`cut_share`).

    Raises:
        ConfigError: samples at another temperature, or cut without `allow_cut`.
    """
    if temperature != 1.0:
        raise ConfigError(
            f"samples drawn at temperature {temperature} are of another distribution than the log-probabilities say; "
            "draw them at temperature 1, without top-k or top-p",
            code="wrong_temperature",
            key="temperature",
        )
    cut = ~np.asarray(ended, dtype=bool)
    if cut.any() and not allow_cut:
        raise ConfigError(
            f"{cut.sum()} of {cut.size} samples were cut before their end, so their KL is only a lower bound; "
            "raise the limit on new tokens, or pass allow_cut=True to have that bound",
            code="cut_samples",
            key="allow_cut",
        )
    gap = np.asarray(logps, dtype=np.float64) - np.asarray(ref_logps, dtype=np.float64)
    if gap.shape != cut.shape:
        raise ConfigError(
            f"{gap.size} log-ratios but {cut.size} samples in `ended`; give one of each a sample",
            code="unequal_lengths",
            key="ended",
        )
    return SequenceKL(
        k1=bootstrap_mean(gap, prompts, level=level, seed=seed),
        k3=bootstrap_mean(np.expm1(-gap) + gap, prompts, level=level, seed=seed),
        per_prompt=unit_means(gap, prompts),
        cut_share=float(cut.mean()),
    )
