"""DPO and close variants: the reward is a log-ratio to the reference; link, unit or one knob differ."""

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
    r"""DPO: fits the policy's implicit reward to comparisons by Bradley–Terry likelihood.

    ℓ = −log σ( β [ (log π/π_ref)(y_w|x) − (log π/π_ref)(y_l|x) ] )

    Source: Rafailov et al. 2023, arXiv 2305.18290.
    Units: β in reward per nat of the whole response; log-ratios are sums over tokens. The authors' code has no default
    and its README uses 0.1; TRL's default is 0.1; 0.01 to 0.5 is usual.
    When: comparisons, and a reference fine-tuned on responses like the chosen ones. Try this method first: on
    Bradley–Terry data its optimum is exactly π_ref·e^(r/β)/Z.
    Differs: all libraries have the same loss. TRL's `sigmoid` has no label smoothing since 0.29 (here `cdpo`). The
    authors' `reference_free` removes the reference from the loss but not from the logged rewards; here the logged
    reward is the trained one.
    Fails: with certain labels (best against worst) there is no finite optimum: margins grow until training stops. Both
    likelihoods may fall (displacement): watch logps/chosen. β determines the KL at the optimum only: measure it on
    samples.
    """
    return Pairwise(LogRatio(beta), Logistic())


@register
def dpo_nll(beta: float = 0.1, nll_weight: float = 1.0) -> Pairwise:
    r"""DPO+NLL: adds imitation of the chosen response to DPO, so that its likelihood does not fall.

    ℓ = −log σ( β [ ρ_w − ρ_l ] ) − nll_weight · log π(y_w|x) / T(y_w),  ρ = log π/π_ref

    Source: Pang et al. 2024, arXiv 2404.19733 (iterative RPO), with its normalisation by length.
    Units: β per nat of the whole response, nll_weight per nat per token; 0.1 and 1 are the paper's.
    When: comparisons whose chosen responses are worth imitating, if `dpo` lowers their likelihood.
    Differs: the NLL is the mean over each response's tokens. TRL's `sigmoid` + `sft` averages it over the tokens of the
    batch, so the same weight has another effect there. In TRL 0.9.6 `rpo_alpha` multiplied the DPO term.
    Fails: a large weight turns it into SFT on the chosen responses. The NLL has a gradient at the optimum too, so β
    determines the KL less than in `dpo`.
    """
    not_negative(nll_weight=nll_weight)
    return Pairwise(LogRatio(beta), Logistic(), regularisers=(ChosenNLL(nll_weight),))


@register
def ipo(tau: float = 0.1) -> Pairwise:
    r"""IPO: regresses the log-ratio margin onto a constant, so that certain labels cannot make it infinite.

    ℓ = ( log π/π_ref(y_w|x) − log π/π_ref(y_l|x) − 1/(2τ) )²

    Source: Azar et al. 2023, arXiv 2310.12036, eq. 17.
    Units: log-ratios are sums over tokens (nats per response). τ is the inverse of a target: the optimal margin is
    1/(2τ) nats for certain pairs and (2p − 1)/(2τ) for pairs of label p. Sweeps use 0.01 to 1.
    When: comparisons whose labels are certain, or few comparisons: the margin has a finite target, where that of `dpo`
    grows without end.
    Differs: log-ratios are summed, as in the paper, the original DPO code, OpenRLHF and OAT. TRL's and HALOs' `ipo`
    divide by length: here that is `ipo_mean`, and it needs another τ. RainbowPO's code has (βh − ½)², β² times this.
    Fails: a margin above the target has the same quadratic loss as one below it, so single rows can dominate a step.
    With several responses the optimum depends on average win rates, π_ref·e^(P̄/τ)/Z, and so on how pairs were drawn.
    """
    positive(tau=tau)
    return Pairwise(LogRatio(beta=1.0), Squared(target=1 / (2 * tau)))


@register
def ipo_mean(tau: float = 0.1) -> Pairwise:
    r"""IPO per token: regresses the margin of length-normalised log-ratios onto a constant.

    ℓ = ( ρ_w/T_w − ρ_l/T_l − 1/(2τ) )²,  ρ = log π/π_ref

    Source: Azar et al. 2023, arXiv 2310.12036, eq. 17, averaged over tokens as in TRL and HALOs.
    Units: nats per token; τ = 0.1 (HALOs) sets a target of 5 nats for every token, where `ipo` sets 5 for the whole
    response.
    When: results of TRL's or HALOs' IPO are to be reproduced, or lengths differ so much that one target for whole
    responses makes no sense.
    Differs: the paper sums. TRL averages by agreement with the authors (its pull request 1265). HALOs divides by the
    count of non-zero log-ratios, which is 0/0 if the policy equals its reference; here by the response's tokens.
    Fails: a small τ sets targets that no policy near the reference reaches: 5 nats per token are 500 for 100 tokens.
    Margins above the target have a quadratic loss too.
    """
    positive(tau=tau)
    return Pairwise(MeanLogRatio(beta=1.0), Squared(target=1 / (2 * tau)))


@register
def ln_dpo(beta: float) -> Pairwise:
    r"""LN-DPO: applies DPO to log-ratios per token, so that length does not decide comparisons of long responses.

    ℓ = −log σ( β [ ρ_w/T_w − ρ_l/T_l ] ),  ρ = log π/π_ref

    Source: Lambert et al. 2024, arXiv 2411.15124 (Tülu 3).
    Units: β in reward per nat per token, so values for `dpo` such as 0.1 do not apply: open-instruct's default is 5,
    and 2 to 10 is usual. There is no default here.
    When: comparisons whose responses differ much in length, and a reference to stay near.
    Differs: open-instruct calls it `dpo_norm`, TRL `sigmoid_norm`. A table in open-instruct's documentation prints 0.1
    for β; that value belongs to `dpo`.
    Fails: the reward does not depend on length, but the policy does: its optimum π_ref·e^(T(r + c)/β) tilts long
    responses more. With certain labels there is no finite optimum.
    """
    return Pairwise(MeanLogRatio(beta), Logistic())


@register
def length_dpo(beta: float = 0.1, alpha: float = 0.05) -> Pairwise:
    r"""R-DPO: explains part of each preference by length, so that the policy does not learn it.

    ℓ = −log σ( β [ ρ_w − ρ_l ] + α (T_w − T_l) ),  ρ = log π/π_ref

    Source: Park et al. 2024, arXiv 2403.19159 (R-DPO).
    Units: β per nat of the whole response, α in reward per token. The paper sweeps β over 0.01 to 0.1 and α over 0.05
    to 1.
    When: the longer response wins too often in the data, and the policy should not learn length from it.
    Differs: OAT writes the term as α/β before multiplying by β. It is called `length_dpo` here because two methods are
    called R-DPO: the other one is `robust_dpo`.
    Fails: α is the same for every token, useful or not: the optimum is π_ref·e^((r − αT)/β)/Z, and too large an α
    teaches short responses. Pairs with a large α(T_w − T_l) have almost no gradient.
    """
    not_negative(alpha=alpha)
    return Pairwise(LogRatio(beta), Logistic(), adjustments=(LengthBonus(alpha),))


@register
def ld_dpo(beta: float = 0.1, alpha: float = 0.5) -> Pairwise:
    r"""LD-DPO: reduces the weight of tokens beyond the length of the shorter response.

    ℓ = −log σ( β [ ρ̃_w − ρ̃_l ] ),  ρ̃ = Σ_{t ≤ m} ρ_t + α Σ_{t > m} ρ_t,
    m = min(T_w, T_l),  ρ_t = log π/π_ref of token t

    Source: Liu et al. 2024, arXiv 2409.06411.
    Units: β per nat of the whole response, α has none. α = 1 is `dpo`; α = 0 reads equally many tokens of both; the
    default in the middle is ours.
    When: responses differ much in length, and the tail of the longer one should count less.
    Differs: α applies to policy and reference alike, as in TRL; LLaMA-Factory applies it to the policy only, so that
    log-ratios are not 0 if policy equals reference.
    Fails: tokens are discounted by position, not by content: a final answer at the end counts least. It reads the
    reference token by token: sums in data columns are refused.
    """
    between(0.0, 1.0, alpha=alpha)
    return Pairwise(LogRatio(beta), Logistic(), adjustments=(ExcessDiscount(beta * (1 - alpha)),))


@register
def f_dpo(
    beta: float = 0.1,
    divergence: Literal["reverse_kl", "forward_kl", "jensen_shannon", "alpha"] = "reverse_kl",
    alpha: float | None = None,
) -> Pairwise:
    r"""f-DPO: replaces DPO's reverse KL between policy and reference by another divergence.

    ℓ = −log σ( β [ f′(u_w) − f′(u_l) ] ),  u = π/π_ref of the whole response
    f′: reverse_kl log u; forward_kl −1/u; jensen_shannon log 2u/(1 + u); alpha (1 − u^(−α))/α

    Source: Wang et al. 2023, arXiv 2309.16240.
    Units: β in reward per unit of f′. `alpha` lies between 0 (reverse KL) and 1 (forward KL). It belongs to the alpha
    divergence, where it has no default.
    When: as `dpo`, if another divergence should limit the policy: at the optimum forward_kl gives β π_ref/(λ − r),
    which stays closer to the reference than e^(r/β).
    Differs: TRL's coefficient is 1 − α; both agree at its default ½ only. TRL logs β·log π/π_ref for every
    divergence; here the logged reward is the trained one.
    Fails: forward_kl weighs a response below its reference by e^(−ρ), alpha by e^(−αρ): a few displaced rows dominate
    the step. Beyond an exponent of 30 both are replaced by their tangent.
    """
    return Pairwise(FDivergence(beta, divergence, alpha), Logistic())
