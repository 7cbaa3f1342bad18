"""Rewards read off the policy alone, or almost: nothing, or little, holds it to where it started."""

from tiltlm.core.checks import not_negative, positive
from tiltlm.links import Hinge, Logistic
from tiltlm.objectives.catalog.registry import register
from tiltlm.objectives.parts.adjustments import Dispersion, Target
from tiltlm.objectives.parts.regularisers import ChosenNLL
from tiltlm.objectives.shapes.pairwise import Pairwise
from tiltlm.rewards import LogOdds, MeanLogp, MixedMean, Power, SeqLogp


@register
def simpo(beta: float = 2.0, gamma_beta_ratio: float = 0.25) -> Pairwise:
    r"""SimPO: length-normalised log-probability as the reward, no reference, and a target margin.

    ℓ = −log σ( β [ A(y_w) − A(y_l) ] − γ ),  A(y) = log π(y|x) / T(y),  γ = β · gamma_beta_ratio

    Source: Meng et al. 2024, arXiv 2405.14734; γ/β as a knob, and the defaults, are those of the authors' code.
    Units: β in reward per nat per token; γ/β in nats per token. The authors recommend β 2 to 10 and γ/β 0 to 1, from
    0.5.
    When: comparisons, and no room or no use for a reference; a small learning rate (the authors' 3e-7 to 1e-6 at 7B).
    Differs: TRL's CPO `simpo` takes γ itself (`simpo_gamma` 0.5, β 0.1) and adds an NLL term unless cpo_alpha is 0. The
    first version of the authors' code took γ too. HALOs: β 10, γ/β 0.3.
    Fails: nothing holds the policy to where it started: watch the KL on samples. The reward is free of length, the
    policy is not: at the optimum π = e^(T(r + c)/β), so of two equally good responses the longer one is rarer.
    """
    not_negative(gamma_beta_ratio=gamma_beta_ratio)
    return Pairwise(MeanLogp(beta), Logistic(margin=beta * gamma_beta_ratio))


@register
def orpo(odds_weight: float = 0.1) -> Pairwise:
    r"""ORPO: imitate the chosen response and raise its odds over the rejected one, without a reference.

    ℓ = −A(y_w) − λ·log σ( lo(y_w) − lo(y_l) ),  lo = log p/(1 − p),  p = exp(A(y)),
    A(y) = log π(y|x) / T(y),  λ = odds_weight

    Source: Hong et al. 2024, arXiv 2403.07691.
    Units: A in nats per token; the odds have none, nor has λ. The paper's runs take 0.1 and 0.05; 0.05 to 1 is usual.
    When: comparisons, and a model that was not fine-tuned before: imitation and preference in one stage.
    Differs: TRL calls λ beta; the authors' code calls it alpha, with 1.0 where none is given. The authors and TRL take
    the NLL over prompt and response; here, as in LLaMA-Factory, over the response. p is the geometric mean over tokens,
    not the whole response's probability.
    Fails: where p is near 1 the gradient grows as 1/(1 − p); A is held at −1e-6. No reference: only the NLL holds the
    policy, and as a mean over each response it favours short ones.
    """
    positive(odds_weight=odds_weight)
    return Pairwise(LogOdds(), Logistic(), regularisers=(ChosenNLL(1.0),), strength=odds_weight)


@register
def cpo(beta: float = 0.1, nll_weight: float = 1.0) -> Pairwise:
    r"""CPO: DPO with a uniform reference, and imitation of the chosen response instead.

    ℓ = −log σ( β [ log π(y_w|x) − log π(y_l|x) ] ) − nll_weight · log π(y_w|x) / T(y_w)

    Source: Xu et al. 2024, arXiv 2401.08417.
    Units: β per nat of the whole response; nll_weight per nat per token, averaged over examples. 0.1 and 1 are the
    authors'.
    When: comparisons whose chosen responses are worth imitating, and no room for a reference.
    Differs: the authors' code and TRL average the NLL over the tokens of the batch; here it is the mean of each
    response. TRL's CPO also serves hinge, `ipo`, `simpo` and `alphapo`, which are their own objectives here.
    Fails: with nll_weight 0 the optimum is ∝ e^(r/β): the starting model is forgotten. A larger β makes the policy
    flatter, and no nearer to the start.
    """
    not_negative(nll_weight=nll_weight)
    return Pairwise(SeqLogp(beta), Logistic(), regularisers=(ChosenNLL(nll_weight),))


@register
def slic(delta: float = 1.0, nll_weight: float = 0.1) -> Pairwise:
    r"""SLiC-HF: calibrate likelihoods by a hinge, and stay near the chosen response.

    ℓ = max(0, δ − log π(y_w|x) + log π(y_l|x)) − nll_weight · log π(y_w|x)

    Source: Zhao et al. 2023, arXiv 2305.10425, with the chosen response as the target of its regulariser.
    Units: δ in nats of the whole response; nll_weight per nat of the whole response. 1 and 0.1 are HALOs'; comparisons
    sweep 0.1 to 2 and 0.1 to 10.
    When: comparisons without a reference, where winning by δ is enough.
    Differs: TRL's `hinge` and OAT's `SLiC` have a reference: `rso` here. HALOs adds a hinge for each row to an NLL for
    each token, which fits only by accident; here both are sums over the response.
    Fails: beyond δ a pair teaches nothing: the margin learns which is better, not by how much. The NLL is a sum, so
    long responses weigh more. Nothing but the NLL holds the policy.
    """
    positive(delta=delta)
    not_negative(nll_weight=nll_weight)
    return Pairwise(SeqLogp(1.0), Hinge(delta), regularisers=(ChosenNLL(nll_weight, per_token=False),))


@register
def alphapo(alpha: float, beta: float = 2.5, gamma_beta_ratio: float = 0.1) -> Pairwise:
    r"""AlphaPO: SimPO with a power of the mean token probability in place of its logarithm.

    ℓ = −log σ( r(y_w) − r(y_l) − γ ),  r = β (1 − p^(−α))/α,
    p = exp(log π(y|x) / T(y)),  γ = β · gamma_beta_ratio

    Source: Gupta et al. 2025, arXiv 2501.03884.
    Units: β per unit of the power, α none. The paper takes α 0.25 with β 2.5 or 10, 0.1 with β 10 for Gemma; −0.5 to
    0.5 is usual. α has no default.
    When: as `simpo`, where the reward should punish unlikely responses more (α above 0) or less (below 0) than the
    logarithm.
    Differs: TRL's default α is 0, silently SimPO, which is its own objective here; TRL's recipe sets simpo_gamma to 0.1
    where the paper's 0.1 is γ/β. Computed by expm1, where TRL takes powers of exponentials.
    Fails: α > 0: p^(−α) of unlikely responses grows fast; beyond an exponent of 30 it goes on as its tangent. α < 0:
    rewards are bounded, and no margin above β/|α| can be reached. No anchor and a length prior, as in `simpo`.
    """
    not_negative(gamma_beta_ratio=gamma_beta_ratio)
    return Pairwise(Power(beta, alpha), Logistic(margin=beta * gamma_beta_ratio))


@register
def rainbowpo(
    beta: float = 10.0, alpha: float = 0.25, gamma_beta_ratio: float = 0.1, dispersion: float = 0.0
) -> Pairwise:
    r"""RainbowPO: a mean reward, a share of the reference, a target margin and a scale, together.

    ℓ = −log σ( φ·β [ (A_w − A_l) − α (A_ref,w − A_ref,l) − (1 − α)·gamma_beta_ratio ] ),
    A(y) = log π(y|x) / T(y)

    Source: Zhao et al. 2024, arXiv 2410.04203.
    Units: β per nat per token, gamma_beta_ratio in nats per token; 10, 0.25 and 0.1 are the authors'. φ = 1 while
    `dispersion` is 0; else φ = −dispersion·log of the reference's entropy as a share of its largest value (the paper's
    contextual scale, 0.29).
    When: as `simpo`, with a share of the reference back: α = 0 is `simpo`, α = 1 is `ln_dpo`. The paper's pairs come
    from rejection sampling, which is no part of the loss.
    Differs: without mixing the authors' code subtracts all of γ while it still refers to the reference. Its branches
    for other divergences are broken; none are here.
    Fails: with α < 1 the reference holds only a part. φ goes to 0 where the reference is nearly uniform, and with it
    the gradient. With `dispersion` the reference runs at every step.
    """
    not_negative(gamma_beta_ratio=gamma_beta_ratio, dispersion=dispersion)
    reward = MixedMean(beta, alpha)
    target = Target(beta * (1 - alpha) * gamma_beta_ratio)
    adjustments = (target, Dispersion(dispersion)) if dispersion else (target,)
    return Pairwise(reward, Logistic(), adjustments=adjustments)
