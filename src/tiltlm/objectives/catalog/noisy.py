"""DPO with another link: for labels that may be wrong, and a loss found by a search."""

from tiltlm.links import Blended, Denoised, Logistic, Smoothed
from tiltlm.objectives.catalog.registry import register
from tiltlm.objectives.shapes.pairwise import Pairwise
from tiltlm.rewards import LogRatio


@register
def cdpo(beta: float = 0.1, label_smoothing: float = 0.1) -> Pairwise:
    r"""cDPO: takes each label as right with probability 1 − ε only, so that margins stay finite.

    ℓ = −(1 − ε) log σ(z) − ε log σ(−z),  z = β [ ρ_w − ρ_l ],  ρ = log π/π_ref

    Source: Mitchell 2023, "A note on DPO with noisy preferences"; not in the DPO paper.
    Units: β per nat of the whole response; ε = label_smoothing, below ½. The authors' README suggests 0.1; HALOs uses
    0.2.
    When: some labels are wrong, or labels are certain and the margins of `dpo` grow too large.
    Differs: TRL's `sigmoid` has no label_smoothing since 0.29. It equals `dpo` on data with the soft label
    `preference` = 1 − ε.
    Fails: it shrinks margins and does not correct labels: the optimal margin of certain labels is log((1 − ε)/ε), and
    the optimum is not that of clean labels. To correct noise of a known rate use `robust_dpo`.
    """
    return Pairwise(LogRatio(beta), Smoothed(Logistic(), label_smoothing))


@register
def robust_dpo(beta: float = 0.1, label_smoothing: float = 0.1) -> Pairwise:
    r"""rDPO: corrects DPO for labels that are flipped at a known rate, so that it is unbiased.

    ℓ = [ −(1 − ε) log σ(z) + ε log σ(−z) ] / (1 − 2ε),  z = β [ ρ_w − ρ_l ],  ρ = log π/π_ref

    Source: Chowdhury et al. 2024, arXiv 2403.00409.
    Units: β per nat of the whole response; ε = label_smoothing, below ½: the share of flipped labels. Both 0.1 in the
    paper.
    When: labels flipped at random at a known rate, for example estimated from repeated labels. Its optimum is then that
    of clean labels.
    Differs: TRL calls it `robust`. Its correction has the opposite sign of that of `cdpo`, which shrinks margins; this
    one widens them.
    Fails: the loss is unbounded below: a pair that occurs with one label only is separated faster than by `dpo`, and
    losses may be negative. A wrong ε causes a bias.
    """
    return Pairwise(LogRatio(beta), Denoised(Logistic(), label_smoothing))


@register
def discopop(beta: float = 0.05, tau: float = 0.05) -> Pairwise:
    r"""DiscoPOP: blends logistic and exponential loss by the margin; a language model's search found it.

    ℓ = (1 − m)·(−log σ(z)) + m·e^(−z),  m = σ(z/τ),  z = β [ ρ_w − ρ_l ],  ρ = log π/π_ref

    Source: Lu et al. 2024, arXiv 2406.08414 (log-ratio modulated loss).
    Units: β per nat of the whole response, τ in units of the reward; 0.05 and 0.05 are the authors'.
    When: to compare with published results; theory gives no reason to prefer it to `dpo`.
    Differs: as the authors' code and TRL's `discopop`; a plot script of the authors has an older form without τ.
    m·e^(−z) is computed as one exponential, so that it does not overflow.
    Fails: for τ below (1 − log 2)/3 ≈ 0.1, the default included, the slope at z = 0 is positive: from the reference a
    pair first moves in the wrong direction. A tie has two minima, at z = ±0.48 for τ = 0.05. The optimum on
    Bradley–Terry data is not π_ref·e^(r/β)/Z.
    """
    return Pairwise(LogRatio(beta), Blended(tau))
