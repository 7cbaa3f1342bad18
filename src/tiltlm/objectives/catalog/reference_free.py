"""Methods whose reward reads no reference, or only a share of it: little keeps the policy near its start."""

from tiltlm.core.checks import not_negative, positive
from tiltlm.links import Hinge, Logistic
from tiltlm.objectives.catalog.registry import register
from tiltlm.objectives.parts.adjustments import Dispersion, Target
from tiltlm.objectives.parts.regularisers import ChosenNLL
from tiltlm.objectives.shapes.pairwise import Pairwise
from tiltlm.rewards import LogOdds, MeanLogp, MixedMean, Power, SeqLogp


@register
def simpo(beta: float = 2.0, gamma_beta_ratio: float = 0.25) -> Pairwise:
    r"""SimPO: uses the length-normalised log-probability as the reward, with a target margin and no reference.

    ℓ = −log σ( β [ A(y_w) − A(y_l) ] − γ ),  A(y) = log π(y|x) / T(y),  γ = β · gamma_beta_ratio

    Source: Meng et al. 2024, arXiv 2405.14734; γ/β as a knob, and the defaults, are those of the authors' code.
    Units: β in reward per nat per token; γ/β in nats per token. The authors recommend β 2 to 10 and γ/β 0 to 1,
    starting at 0.5.
    When: comparisons without a reference, or without memory for one; a small learning rate (the authors' 3e-7 to 1e-6
    at 7B).
    Differs: TRL's CPO `simpo` takes γ itself (`simpo_gamma` 0.5, β 0.1) and adds an NLL term unless cpo_alpha is 0. The
    first version of the authors' code took γ too. HALOs: β 10, γ/β 0.3.
    Fails: nothing keeps the policy near its start: watch the KL on samples. The reward does not depend on length, but
    the policy does: at the optimum π = e^(T(r + c)/β), so of two equally good responses the longer one is less likely.
    """
    not_negative(gamma_beta_ratio=gamma_beta_ratio)
    return Pairwise(MeanLogp(beta), Logistic(margin=beta * gamma_beta_ratio))


@register
def orpo(odds_weight: float = 0.1) -> Pairwise:
    r"""ORPO: imitates the chosen response and raises its odds over the rejected one, without a reference.

    ℓ = −A(y_w) − λ·log σ( lo(y_w) − lo(y_l) ),  lo = log p/(1 − p),  p = exp(A(y)),
    A(y) = log π(y|x) / T(y),  λ = odds_weight

    Source: Hong et al. 2024, arXiv 2403.07691.
    Units: A in nats per token; the odds and λ have no unit. The paper's runs use 0.1 and 0.05; 0.05 to 1 is usual.
    When: comparisons, and a model that was not fine-tuned before: imitation and preference in one stage.
    Differs: TRL calls λ beta; the authors' code calls it alpha, with a default of 1.0. The authors and TRL compute the
    NLL over prompt and response; here, as in LLaMA-Factory, over the response. p is the geometric mean over tokens, not
    the whole response's probability.
    Fails: near p = 1 the gradient grows as 1/(1 − p); A is clamped at −1e-6. There is no reference: only the NLL keeps
    the policy near its data, and as a mean over each response it favours short ones.
    """
    positive(odds_weight=odds_weight)
    return Pairwise(LogOdds(), Logistic(), regularisers=(ChosenNLL(1.0),), strength=odds_weight)


@register
def cpo(beta: float = 0.1, nll_weight: float = 1.0) -> Pairwise:
    r"""CPO: replaces DPO's reference by a uniform one and adds imitation of the chosen response.

    ℓ = −log σ( β [ log π(y_w|x) − log π(y_l|x) ] ) − nll_weight · log π(y_w|x) / T(y_w)

    Source: Xu et al. 2024, arXiv 2401.08417.
    Units: β per nat of the whole response; nll_weight per nat per token, averaged over examples. 0.1 and 1 are the
    authors'.
    When: comparisons whose chosen responses are worth imitating, without memory for a reference.
    Differs: the authors' code and TRL average the NLL over the tokens of the batch; here it is the mean of each
    response. TRL's CPO also has hinge, `ipo`, `simpo` and `alphapo`, which are separate objectives here.
    Fails: with nll_weight 0 the optimum is ∝ e^(r/β), which does not depend on the starting model. A larger β makes the
    policy flatter, not closer to the start.
    """
    not_negative(nll_weight=nll_weight)
    return Pairwise(SeqLogp(beta), Logistic(), regularisers=(ChosenNLL(nll_weight),))


@register
def slic(delta: float = 1.0, nll_weight: float = 0.1) -> Pairwise:
    r"""SLiC-HF: calibrates likelihoods by a hinge and imitates the chosen response.

    ℓ = max(0, δ − log π(y_w|x) + log π(y_l|x)) − nll_weight · log π(y_w|x)

    Source: Zhao et al. 2023, arXiv 2305.10425, with the chosen response as the target of its regulariser.
    Units: δ in nats of the whole response; nll_weight per nat of the whole response. 1 and 0.1 are HALOs'; comparisons
    sweep 0.1 to 2 and 0.1 to 10.
    When: comparisons without a reference, where a margin of δ is enough.
    Differs: TRL's `hinge` and OAT's `SLiC` have a reference: `rso` here. HALOs adds a hinge per row to an NLL per
    token, whose units differ; here both are sums over the response.
    Fails: beyond δ a pair has no gradient: the margin shows which response is better, not by how much. The NLL is a
    sum, so long responses weigh more. Only the NLL keeps the policy near its data.
    """
    positive(delta=delta)
    not_negative(nll_weight=nll_weight)
    return Pairwise(SeqLogp(1.0), Hinge(delta), regularisers=(ChosenNLL(nll_weight, per_token=False),))


@register
def alphapo(alpha: float, beta: float = 2.5, gamma_beta_ratio: float = 0.1) -> Pairwise:
    r"""AlphaPO: replaces SimPO's logarithm by a power of the mean token probability.

    ℓ = −log σ( r(y_w) − r(y_l) − γ ),  r = β (1 − p^(−α))/α,
    p = exp(log π(y|x) / T(y)),  γ = β · gamma_beta_ratio

    Source: Gupta et al. 2025, arXiv 2501.03884.
    Units: β per unit of the power, α has none. The paper uses α 0.25 with β 2.5 or 10, and 0.1 with β 10 for Gemma;
    −0.5 to 0.5 is usual. α has no default.
    When: as `simpo`, if unlikely responses should get a lower reward (α above 0) or a higher one (below 0) than the
    logarithm gives.
    Differs: TRL's default α is 0, which is SimPO; here that is a separate objective. TRL's recipe sets simpo_gamma to
    0.1 where the paper's 0.1 is γ/β. Computed by expm1, where TRL takes powers of exponentials.
    Fails: with α > 0, p^(−α) of unlikely responses grows fast; beyond an exponent of 30 it is replaced by its tangent.
    With α < 0, rewards are bounded, and no margin above β/|α| can be reached. As in `simpo`, there is no reference, and
    the policy depends on length.
    """
    not_negative(gamma_beta_ratio=gamma_beta_ratio)
    return Pairwise(Power(beta, alpha), Logistic(margin=beta * gamma_beta_ratio))


@register
def rainbowpo(
    beta: float = 10.0, alpha: float = 0.25, gamma_beta_ratio: float = 0.1, dispersion: float = 0.0
) -> Pairwise:
    r"""RainbowPO: combines a mean reward, a share of the reference, a target margin and a scale.

    ℓ = −log σ( φ·β [ (A_w − A_l) − α (A_ref,w − A_ref,l) − (1 − α)·gamma_beta_ratio ] ),
    A(y) = log π(y|x) / T(y)

    Source: Zhao et al. 2024, arXiv 2410.04203.
    Units: β per nat per token, gamma_beta_ratio in nats per token; 10, 0.25 and 0.1 are the authors'. φ = 1 if
    `dispersion` is 0; else φ = −dispersion·log of the reference's entropy as a share of its largest value (the paper's
    contextual scale, 0.29).
    When: as `simpo`, with a share of the reference: α = 0 is `simpo`, α = 1 is `ln_dpo`. The paper's pairs come from
    rejection sampling, which is not part of the loss.
    Differs: without mixing, the authors' code subtracts all of γ while it still uses the reference. Its branches for
    other divergences do not work; they are not implemented here.
    Fails: with α < 1 the reference limits the policy only in part. φ goes to 0 if the reference is nearly uniform, and
    then so does the gradient. With `dispersion` the reference runs at every step.
    """
    not_negative(gamma_beta_ratio=gamma_beta_ratio, dispersion=dispersion)
    reward = MixedMean(beta, alpha)
    target = Target(beta * (1 - alpha) * gamma_beta_ratio)
    adjustments = (target, Dispersion(dispersion)) if dispersion else (target,)
    return Pairwise(reward, Logistic(), adjustments=adjustments)
