"""Losses of a whole step's sorted values, so that every example's loss depends on all others."""

from tiltlm.links import Link, Logistic, Smoothed
from tiltlm.objectives.catalog.registry import register
from tiltlm.objectives.shapes.distributional import DominantMargins, DominantRewards
from tiltlm.rewards import LogRatio


@register
def aot(beta: float = 0.01, label_smoothing: float = 0.0) -> DominantMargins:
    r"""AOT: makes the policy's margins dominate the reference's, quantile by quantile.

    ℓ = mean_i of ℓ_ε( β [ a_(i) − b_(i) ] ),
    a = sort( log π(y_w)/π(y_l) ),  b = sort( log π_ref(y_w)/π_ref(y_l) ),
    ℓ_ε(u) = −(1 − ε) log σ(u) − ε log σ(−u),  ε = label_smoothing

    Source: Melnyk et al. 2024, arXiv 2406.05882 (paired).
    Units: β per nat of the whole response, 0.01; ε below ½.
    When: comparisons where the whole distribution of margins should improve, not each pair; large steps.
    Differs: TRL called it `aot_pair` before 0.29. Here the whole step is sorted, over all packs and ranks, however it
    is split.
    Fails: it depends on the batch size: a step of one pair is `dpo`. A pair is compared with another pair's reference
    margin, so no single pair is sure to improve. A step that does not fit one forward takes two passes.
    """
    return DominantMargins(LogRatio(beta), _link(label_smoothing))


@register
def aot_unpaired(beta: float = 0.01, label_smoothing: float = 0.0) -> DominantRewards:
    r"""AOT on single labels: makes desirable rewards dominate undesirable ones as a distribution.

    ℓ = ∫ ℓ_ε( r₊(q) − r₋(q) ) dq,  r = β log π/π_ref,
    r₊ and r₋ the quantiles of a step's desirable and undesirable responses,
    ℓ_ε(u) = −(1 − ε) log σ(u) − ε log σ(−u),  ε = label_smoothing

    Source: Melnyk et al. 2024, arXiv 2406.05882 (unpaired).
    Units: β per nat of the whole response, 0.01; ε below ½.
    When: single responses labelled good or bad; large steps in which both classes occur.
    Differs: TRL called it `aot` before 0.29, and reads pairs. Here classes of equal size are sorted and compared one to
    one, others by their quantiles.
    Fails: a step with one class only has loss 0. Responses to different prompts are compared: hard prompts look
    undesirable. It depends on the batch size, and a step that does not fit one forward takes two passes.
    """
    return DominantRewards(LogRatio(beta), _link(label_smoothing))


def _link(label_smoothing: float) -> Link:
    return Smoothed(Logistic(), label_smoothing)
