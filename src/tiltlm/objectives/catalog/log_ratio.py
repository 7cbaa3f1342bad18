"""DPO and its nearest kin: the reward is a log-ratio to the reference, only link, unit or one knob differ."""

from typing import Literal

from tiltlm.core.checks import between, not_negative, positive
from tiltlm.links import Logistic, Squared
from tiltlm.objectives.catalog.registry import register
from tiltlm.objectives.parts.adjustments import ExcessDiscount, LengthBonus
from tiltlm.objectives.parts.regularisers import ChosenNLL
from tiltlm.objectives.shapes.pairwise import Pairwise
from tiltlm.rewards import FDivergence, LogRatio, MeanLogRatio


@register
def dpo(beta: float = 0.1) -> Pairwise:
    r"""DPO: the policy is its own reward model; fit it to comparisons by Bradley–Terry likelihood.

    ℓ = −log σ( β [ (log π/π_ref)(y_w|x) − (log π/π_ref)(y_l|x) ] )

    Source: Rafailov et al. 2023, arXiv 2305.18290.
    Units: β in reward per nat of the whole response; log-ratios are sums over tokens. The authors' code has no default,
    its README takes 0.1; TRL 0.1; 0.01 to 0.5 is usual.
    When: comparisons, and a reference that was fine-tuned on answers like the chosen ones. The one to try first: on
    Bradley–Terry data its optimum is exactly π_ref·e^(r/β)/Z.
    Differs: the loss is the same everywhere. TRL's `sigmoid` has had no label smoothing since 0.29 (here `cdpo`). The
    authors' `reference_free` drops the reference from the loss and not from the logged rewards; here what is logged is
    what is trained.
    Fails: labels that are certain (best against worst) have no finite optimum: margins grow until training stops. Both
    likelihoods may fall (displacement): watch logps/chosen. β fixes the KL at the optimum only: measure it on samples.
    """
    return Pairwise(LogRatio(beta), Logistic())


@register
def dpo_nll(beta: float = 0.1, nll_weight: float = 1.0) -> Pairwise:
    r"""DPO+NLL: DPO, and imitation of the chosen response so that its likelihood does not fall.

    ℓ = −log σ( β [ ρ_w − ρ_l ] ) − nll_weight · log π(y_w|x) / T(y_w),  ρ = log π/π_ref

    Source: Pang et al. 2024, arXiv 2404.19733 (iterative RPO), with its normalisation by length.
    Units: β per nat of the whole response, nll_weight per nat per token; 0.1 and 1 are the paper's.
    When: comparisons whose chosen responses are worth imitating, where `dpo` lowers their likelihood.
    Differs: the NLL is the mean over each response's tokens. TRL's `sigmoid` + `sft` averages it over the tokens of the
    batch, so that one weight means another thing. In TRL 0.9.6 `rpo_alpha` multiplied the DPO term.
    Fails: a large weight turns it into SFT on the chosen responses. The NLL pulls at the optimum too, so β says less
    about the KL than in `dpo`.
    """
    not_negative(nll_weight=nll_weight)
    return Pairwise(LogRatio(beta), Logistic(), regularisers=(ChosenNLL(nll_weight),))


@register
def ipo(tau: float = 0.1) -> Pairwise:
    r"""IPO: regress the log-ratio margin onto a constant, so that certain labels cannot push it to infinity.

    ℓ = ( log π/π_ref(y_w|x) − log π/π_ref(y_l|x) − 1/(2τ) )²

    Source: Azar et al. 2023, arXiv 2310.12036, eq. 17.
    Units: log-ratios are sums over tokens (nats per response). τ is the inverse of a target: certain pairs come to rest
    at 1/(2τ) nats, pairs of label p at (2p − 1)/(2τ). Sweeps go from 0.01 to 1.
    When: comparisons whose labels are certain, or few: the margin has a finite target, where that of `dpo` grows for
    ever.
    Differs: summed, as the paper prints it and the original DPO code, OpenRLHF and OAT do. TRL's and HALOs' `ipo`
    divide by length: here `ipo_mean`, with another τ. RainbowPO's code has (βh − ½)², β² times this.
    Fails: a margin beyond the target is punished like one short of it, quadratically, so single rows can rule a step.
    With several responses the optimum follows average win rates, π_ref·e^(P̄/τ)/Z, and so how the pairs were drawn.
    """
    positive(tau=tau)
    return Pairwise(LogRatio(beta=1.0), Squared(target=1 / (2 * tau)))


@register
def ipo_mean(tau: float = 0.1) -> Pairwise:
    r"""IPO per token: regress the margin of length-normalised log-ratios onto a constant.

    ℓ = ( ρ_w/T_w − ρ_l/T_l − 1/(2τ) )²,  ρ = log π/π_ref

    Source: Azar et al. 2023, arXiv 2310.12036, eq. 17, averaged over tokens as in TRL and HALOs.
    Units: nats per token; τ = 0.1 (HALOs) asks for a margin of 5 nats in every token, where `ipo` asks for 5 in all.
    When: results of TRL's or HALOs' IPO are to be met, or lengths differ so much that one target for whole responses
    makes no sense.
    Differs: the paper sums. TRL averages by agreement with the authors (its pull request 1265). HALOs divides by the
    count of non-zero log-ratios, which is 0/0 where the policy equals its reference; here by the response's tokens.
    Fails: small τ asks for margins that no policy near the reference has: 5 nats a token are 500 in 100 tokens.
    Overshoot is punished quadratically.
    """
    positive(tau=tau)
    return Pairwise(MeanLogRatio(beta=1.0), Squared(target=1 / (2 * tau)))


@register
def ln_dpo(beta: float) -> Pairwise:
    r"""LN-DPO: DPO on log-ratios per token, so that long responses are not decided by their length.

    ℓ = −log σ( β [ ρ_w/T_w − ρ_l/T_l ] ),  ρ = log π/π_ref

    Source: Lambert et al. 2024, arXiv 2411.15124 (Tülu 3).
    Units: β in reward per nat per token, so 0.1 of `dpo` is no guide: 5 is open-instruct's default, 2 to 10 usual. No
    default here.
    When: comparisons whose responses differ much in length, and a reference to stay near.
    Differs: open-instruct calls it `dpo_norm`, TRL `sigmoid_norm`. A table in open-instruct's documentation prints 0.1
    for β; that is `dpo`'s.
    Fails: the reward is free of length, the policy is not: its optimum π_ref·e^(T(r + c)/β) tilts long responses more.
    Certain labels have no finite optimum.
    """
    return Pairwise(MeanLogRatio(beta), Logistic())


@register
def length_dpo(beta: float = 0.1, alpha: float = 0.05) -> Pairwise:
    r"""R-DPO: DPO that explains part of each preference by length, so that it need not be learnt.

    ℓ = −log σ( β [ ρ_w − ρ_l ] + α (T_w − T_l) ),  ρ = log π/π_ref

    Source: Park et al. 2024, arXiv 2403.19159 (R-DPO).
    Units: β per nat of the whole response, α in reward per token. The paper sweeps β over 0.01 to 0.1 and α over 0.05
    to 1.
    When: the longer response wins too often in the data, and the policy should not learn length from it.
    Differs: OAT writes the term as α/β before multiplying by β. Called `length_dpo` here because R-DPO is two methods'
    name: the other is `robust_dpo`.
    Fails: α is one price for every token, deserved or not: the optimum is π_ref·e^((r − αT)/β)/Z, and too large an α
    teaches short answers. Where α(T_w − T_l) is large, pairs no longer teach.
    """
    not_negative(alpha=alpha)
    return Pairwise(LogRatio(beta), Logistic(), adjustments=(LengthBonus(alpha),))


@register
def ld_dpo(beta: float = 0.1, alpha: float = 0.5) -> Pairwise:
    r"""LD-DPO: DPO in which tokens beyond the shorter response's length count only by a share.

    ℓ = −log σ( β [ ρ̃_w − ρ̃_l ] ),  ρ̃ = Σ_{t ≤ m} ρ_t + α Σ_{t > m} ρ_t,
    m = min(T_w, T_l),  ρ_t = log π/π_ref of token t

    Source: Liu et al. 2024, arXiv 2409.06411.
    Units: β per nat, α none. α = 1 is `dpo`, α = 0 looks at equally many tokens of both; the default, half way, is
    ours.
    When: responses differ much in length, and the tail of the longer one should count for less.
    Differs: α weighs policy and reference alike, as in TRL; LLaMA-Factory weighs the policy only, so that log-ratios
    are not 0 where policy equals reference.
    Fails: what is discounted is chosen by place and not by content: an answer that comes last counts least. It reads
    the reference token by token: sums brought along as columns are refused.
    """
    between(0.0, 1.0, alpha=alpha)
    return Pairwise(LogRatio(beta), Logistic(), adjustments=(ExcessDiscount(beta * (1 - alpha)),))


@register
def f_dpo(
    beta: float = 0.1,
    divergence: Literal["reverse_kl", "forward_kl", "jensen_shannon", "alpha"] = "reverse_kl",
    alpha: float | None = None,
) -> Pairwise:
    r"""f-DPO: DPO with another divergence between policy and reference; reverse KL is DPO itself.

    ℓ = −log σ( β [ f′(u_w) − f′(u_l) ] ),  u = π/π_ref of the whole response
    f′: reverse_kl log u; forward_kl −1/u; jensen_shannon log 2u/(1 + u); alpha (1 − u^(−α))/α

    Source: Wang et al. 2023, arXiv 2309.16240.
    Units: β in reward per unit of f′. `alpha` lies between 0 (reverse KL) and 1 (forward KL) and belongs to the alpha
    divergence, where it has no default.
    When: as `dpo`, where another divergence should hold the policy: at the optimum forward_kl gives β π_ref/(λ − r),
    which keeps more of what the reference says than e^(r/β).
    Differs: TRL's coefficient is 1 − α; they agree at its default ½ only. TRL logs β·log π/π_ref whatever the
    divergence; here the reward logged is the one trained.
    Fails: forward_kl weighs a response below its reference by e^(−ρ), alpha by e^(−αρ): a few displaced rows rule the
    step. Beyond an exponent of 30 both go on as their tangent.
    """
    return Pairwise(FDivergence(beta, divergence, alpha), Logistic())
