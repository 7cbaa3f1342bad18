"""Methods for loops that sample and score: pairs with scores, and pairs from rejection sampling."""

from tiltlm.core.checks import positive
from tiltlm.links import Hinge, Logistic, Squared
from tiltlm.objectives.catalog.registry import register
from tiltlm.objectives.parts.adjustments import LogScoreMargin, ScoreTarget
from tiltlm.objectives.shapes.pairwise import Pairwise
from tiltlm.rewards import LogRatio


@register
def odpo(beta: float = 0.1, alpha: float = 1.0) -> Pairwise:
    r"""ODPO: requires a larger margin from a response that is better by more.

    ℓ = −log σ( β [ ρ_w − ρ_l ] − α·log(s_w − s_l) ),  ρ = log π/π_ref,  s the scores, s_w > s_l

    Source: Amini et al. 2024, arXiv 2402.10571.
    Units: β per nat of the whole response, α in reward per log unit of score. α 1 is the authors'; their β is 0.05 to
    0.7 by task.
    When: scored pairs in which the size of the score gap has a meaning.
    Differs: the authors' code also has a ratio of scores in place of the gap; here it is the gap.
    Fails: the unit of the scores matters: gaps below 1 require a negative margin. Ties have no finite offset and are
    refused. Margins become larger than reward differences: the optimum is not π_ref·e^(r/β)/Z. α = 0 is `dpo`.
    """
    return Pairwise(LogRatio(beta), Logistic(), adjustments=(LogScoreMargin(alpha),))


@register
def rebel(eta: float = 1.0) -> Pairwise:
    r"""REBEL: regresses the difference of log-ratios onto the difference of rewards: policy gradient as least squares.

    ℓ = ( [ ρ_w − ρ_l ] / η − (s_w − s_l) )²,
    ρ = log π/π_ref,  s the scores,  π_ref the policy that sampled

    Source: Gao et al. 2024, arXiv 2404.16767.
    Units: η in nats per unit of score; 1 in the authors' summarisation runs.
    When: rounds of sampling two responses from the policy and scoring them, each round with that policy as the
    reference.
    Differs: the authors' code computes η² times this, so learning rates differ. Their log-probabilities are of the
    policy at the temperature of sampling; here at temperature 1. One of their configurations has η = 1e6, a target that
    cannot be reached.
    Fails: the optimum is π_ref·e^(ηs)/Z: the scale of the scores determines the distance to the reference, and one
    outlier score dominates a step by its square. With old samples it fits the score gaps of another policy.
    """
    positive(eta=eta)
    return Pairwise(LogRatio(1 / eta), Squared(target=0.0), adjustments=(ScoreTarget(),))


@register
def dno(eta: float = 0.1) -> Pairwise:
    r"""DNO: compares samples of the last policy with soft labels from win rates, towards a Nash equilibrium.

    ℓ = −σ(Δ) log σ( η [ ρ_w − ρ_l ] ) − σ(−Δ) log σ( −η [ ρ_w − ρ_l ] ),
    ρ = log π/π_ref,  Δ = s_w − s_l,  s the scores

    Source: Rosset et al. 2024, arXiv 2404.03715; s is the win rate against the last policy, which is π_ref.
    Units: η in reward per nat of the whole response, like β of `dpo`; the default is ours.
    When: rounds of sampling and judging under preferences that no single reward explains, even cyclic ones.
    Differs: no code by the authors is known. Their practical DNO-Prct is plain `dpo` on pairs with a large gap, with
    the last policy as the reference.
    Fails: win rates lie between 0 and 1, so labels stay between 0.27 and 0.73 and one round changes little:
    π_ref·e^(s/η)/Z. Scores on another scale are used as they are.
    """
    positive(eta=eta)
    return Pairwise(LogRatio(eta), Logistic(), labels_from_scores=True)


@register
def rso(beta: float = 0.05, delta: float = 1.0) -> Pairwise:
    r"""RSO: applies a hinge to DPO's margin, for pairs from rejection sampling.

    ℓ = max(0, δ − β [ ρ_w − ρ_l ]),  ρ = log π/π_ref

    Source: Liu et al. 2023, arXiv 2309.06657 (hinge-norm), with γ = 0.05 for β.
    Units: β per nat of the whole response, δ in units of the reward.
    When: comparisons where a margin of δ is enough; best with samples drawn from near the optimum.
    Differs: TRL's `hinge` and OAT's `SLiC` are this with δ = 1. The paper's sampling is not part of the loss. SLiC's
    own hinge has no reference: `slic`.
    Fails: beyond δ/β nats a pair has no gradient: the optimal margin is δ for every label p above ½, so the margin
    shows which response is better but not by how much.
    """
    positive(delta=delta)
    return Pairwise(LogRatio(beta), Hinge(delta))
