"""Methods that read whole next-token distributions, not only the response's tokens."""

from tiltlm.core.checks import not_negative
from tiltlm.links import Logistic
from tiltlm.objectives.catalog.registry import register
from tiltlm.objectives.parts.adjustments import PositionKL
from tiltlm.objectives.parts.weightings import OnPolicy
from tiltlm.objectives.shapes.pairwise import Pairwise
from tiltlm.rewards import LogRatio


@register
def tdpo1(beta: float = 0.1) -> Pairwise:
    r"""TDPO1: subtracts the difference of the two responses' sequential KL from DPO's margin.

    ℓ = −log σ( β [ ρ_w − ρ_l − (D_l − D_w) ] ),  ρ = log π/π_ref,
    D(y) = Σ_t KL( π_ref(·|x, y_<t) ‖ π(·|x, y_<t) )

    Source: Zeng et al. 2024, arXiv 2404.11999.
    Units: β per nat of the whole response, 0.1 in the authors' code; D in nats, over the whole vocabulary, with
    gradient.
    When: comparisons where the KL of every position should be controlled, and the reference may run at every step.
    Differs: the authors' configuration selects this form, their README presents `tdpo2` as the default: here they have
    two names. D is computed from log-softmax; the authors' log of softmax underflows.
    Fails: D_w raises the margin and has a gradient: the loss rewards divergence at the chosen response, and KL grows
    (measured in docs/in-a-known-world.md); `tdpo2` avoids this. It needs the reference's distributions at every step:
    they are not in the store, and columns are refused. D is the forward KL, π_ref‖π, not an estimate of the policy's.
    For responses of one token it is `dpo`.
    """
    return Pairwise(LogRatio(beta), Logistic(), adjustments=(PositionKL(beta, holds_chosen=False),))


@register
def tdpo2(beta: float = 0.1, alpha: float = 0.5) -> Pairwise:
    r"""TDPO2: takes only a share of TDPO1's KL difference, with no gradient through the chosen response's KL.

    ℓ = −log σ( β [ ρ_w − ρ_l − α (D_l − sg D_w) ] ),  ρ = log π/π_ref,
    D(y) = Σ_t KL( π_ref(·|x, y_<t) ‖ π(·|x, y_<t) ),  sg: without gradient

    Source: Zeng et al. 2024, arXiv 2404.11999.
    Units: β per nat of the whole response, α has none; 0.1 and 0.5 in the authors' code.
    When: as `tdpo1`; the authors' README presents this form as the default.
    Differs: the authors' configuration does not select it. At α = 1 its value is that of `tdpo1`, its gradient is not:
    none flows through D_w.
    Fails: it needs the reference's distributions at every step: they are not in the store, and columns are refused.
    Gradient still flows through D_l if both D are equal, so for one-token responses it is not `dpo`.
    """
    not_negative(alpha=alpha)
    return Pairwise(LogRatio(beta), Logistic(), adjustments=(PositionKL(beta * alpha, holds_chosen=True),))


@register
def wpo(beta: float = 0.01) -> Pairwise:
    r"""WPO: weighs DPO's pairs by how likely the policy itself is to generate them.

    ℓ = min(1, w(y_w)·w(y_l)) · −log σ( β [ ρ_w − ρ_l ] ),  ρ = log π/π_ref,
    w(y) = exp( mean_t [ log π(y_t) − log Σ_v π(v)² ] ), without gradient

    Source: Zhou et al. 2024, arXiv 2406.11827, aligned, and clamped at 1 as in the authors' code.
    Units: β per nat of the whole response; 0.01 is the authors'.
    When: pairs written by other models, of which those unlike the policy's own responses should count less.
    Differs: TRL's `use_weighting` does not clamp. Open-instruct multiplies sequence sums by token masks and omits the
    alignment.
    Fails: weights do not change the divisor: if no response looks like the policy's own, steps become small. The
    weights change with the policy, so losses of two steps do not have the same scale.
    """
    return Pairwise(LogRatio(beta), Logistic(), weighting=OnPolicy())
