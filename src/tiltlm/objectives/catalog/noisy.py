"""For labels that may be wrong, and for a loss that a search found: DPO with another link."""

from tiltlm.links import Blended, Denoised, Logistic, Smoothed
from tiltlm.objectives.catalog.registry import register
from tiltlm.objectives.shapes.pairwise import Pairwise
from tiltlm.rewards import LogRatio


@register
def cdpo(beta: float = 0.1, label_smoothing: float = 0.1) -> Pairwise:
    r"""cDPO: DPO that believes each label only with probability 1 − ε, so that margins stay finite.

    ℓ = −(1 − ε) log σ(z) − ε log σ(−z),  z = β [ ρ_w − ρ_l ],  ρ = log π/π_ref

    Source: Mitchell 2023, "A note on DPO with noisy preferences"; not in the DPO paper.
    Units: β per nat of the whole response; ε = label_smoothing, below ½. 0.1 is the suggestion of the authors' README;
    HALOs takes 0.2.
    When: labels that are sometimes wrong, or certain labels under which the margins of `dpo` run away.
    Differs: TRL's `sigmoid` has not taken label_smoothing since 0.29. The same as `dpo` on data with the soft label
    `preference` = 1 − ε.
    Fails: it shrinks and does not correct: certain labels come to rest at z = log((1 − ε)/ε), and the optimum is not
    that of clean labels. To undo noise of a known rate use `robust_dpo`.
    """
    return Pairwise(LogRatio(beta), Smoothed(Logistic(), label_smoothing))


@register
def robust_dpo(beta: float = 0.1, label_smoothing: float = 0.1) -> Pairwise:
    r"""rDPO: DPO made unbiased for labels that are flipped at a known rate.

    ℓ = [ −(1 − ε) log σ(z) + ε log σ(−z) ] / (1 − 2ε),  z = β [ ρ_w − ρ_l ],  ρ = log π/π_ref

    Source: Chowdhury et al. 2024, arXiv 2403.00409.
    Units: β per nat of the whole response; ε = label_smoothing, below ½: the share of flipped labels. Both 0.1 in the
    paper.
    When: labels flipped at random at a rate that is known, from repeated labels for example; its optimum is then that
    of clean labels.
    Differs: TRL calls it `robust`. Its correction has the opposite sign of `cdpo`'s: that one shrinks margins, this one
    widens them.
    Fails: unbounded below: a pair seen one way round only is pushed apart faster than by `dpo`, and losses may be
    negative. A wrong ε is a bias.
    """
    return Pairwise(LogRatio(beta), Denoised(Logistic(), label_smoothing))


@register
def discopop(beta: float = 0.05, tau: float = 0.05) -> Pairwise:
    r"""DiscoPOP: logistic and exponential loss blended by the margin, found by a language model's search.

    ℓ = (1 − m)·(−log σ(z)) + m·e^(−z),  m = σ(z/τ),  z = β [ ρ_w − ρ_l ],  ρ = log π/π_ref

    Source: Lu et al. 2024, arXiv 2406.08414 (log-ratio modulated loss).
    Units: β per nat of the whole response, τ in units of the reward; 0.05 and 0.05 are the authors'.
    When: to compare with published results; nothing in theory speaks for it over `dpo`.
    Differs: as the authors' code and TRL's `discopop`; a plot script of the authors has an older form without τ.
    m·e^(−z) is computed as one exponential, so that it does not overflow.
    Fails: for τ below (1 − log 2)/3 ≈ 0.1, the default included, the slope at z = 0 is positive: from the reference a
    pair first moves the wrong way. A tie has two minima, at z = ±0.48 for τ = 0.05. The optimum on
    Bradley–Terry data is not π_ref·e^(r/β)/Z.
    """
    return Pairwise(LogRatio(beta), Blended(tau))
