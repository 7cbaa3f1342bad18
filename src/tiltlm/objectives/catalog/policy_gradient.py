"""Policy gradients: methods for fresh samples with advantages, which `tiltlm loop` draws and scores.

The advantage of a sample is data: an example rule makes it from scores (`loo`, `group_std` and others). The methods
differ in the loss of a token, in what it is divided by, and in where the KL to the reference stands.
"""

from typing import Literal

from tiltlm.objectives.catalog.registry import register
from tiltlm.objectives.parts.critics import Critic
from tiltlm.objectives.parts.surrogates import (
    Clipped,
    ProbabilityMask,
    ReferenceKL,
    Reinforce,
    SequenceClipped,
    TruncatedWeight,
)
from tiltlm.objectives.shapes.rollouts import PolicyGradient

LossKL = Literal["k2", "k3", "k3_as_printed"]
"""Estimators of a KL in the loss."""


def _in_loss(beta: float, estimator: LossKL) -> ReferenceKL | None:
    """Return the KL of each token as a loss; None if β is 0."""
    return ReferenceKL(beta, "loss", estimator) if beta else None


@register
def reinforce(beta: float = 0.05, entropy: float = 0.0) -> PolicyGradient:
    r"""REINFORCE: raises the log-probability of each sample in proportion to its advantage.

    ℓ = −Σ_t A_t log π(y_t),
    A_t = A − β Σ_{s≥t} log π/π_ref(y_s) − entropy·log π(y_t),  without gradient

    Source: Williams 1992; for language models Ahmadian et al. 2024, arXiv 2402.14740.
    Units: β in reward per nat of the whole response, as in `dpo`; 0 means no KL and no reference. entropy in reward per
    nat of a token.
    When: one step on each set of samples. It is the exact gradient of E[reward] − β·KL if the advantages are unbiased,
    so its optimum is π_ref·e^(r/β)/Z, that of `dpo` on endless data.
    Differs: the KL is a reward to go of each token; libraries that put it into the score of the whole response have the
    same expectation with more variance. The policy is at temperature 1; TRL divides logits by the temperature.
    Fails: with several steps on the same samples it goes on raising what it has raised: use `grpo` or `cispo`. Its
    variance is that of the advantages: without a good baseline it is large.
    """
    return PolicyGradient(Reinforce(), kl=ReferenceKL(beta) if beta else None, entropy=entropy)


@register
def rloo(beta: float = 0.03) -> PolicyGradient:
    r"""RLOO: REINFORCE whose baseline is the mean reward of the other samples of the same prompt.

    ℓ = −A Σ_t log π(y_t),  A = R_i − mean_{j≠i} R_j,  R = r − β log π/π_ref(y|x),  A without gradient

    Source: Ahmadian et al. 2024, arXiv 2402.14740, with β 0.03.
    Units: β in reward per nat of the whole response, as in `dpo`; 0 means no KL and no reference.
    When: two to eight samples a prompt and one step on each set of samples. Its scores become advantages by the rule
    loo of a loop.
    Differs: TRL clips the ratio of the whole response at 0.2. In a first step this does nothing, later it hits nearly
    every long response. Here nothing is clipped.
    Fails: with one sample a prompt there is no baseline. The log-ratio of the whole response is in the advantage of
    each token, so long responses have noisy gradients; `reinforce` has the same expectation with less noise.
    """
    return PolicyGradient(Reinforce(), kl=ReferenceKL(beta, "response") if beta else None)


@register
def grpo(beta: float = 0.0, clip: float = 0.2, dual: float | None = None, kl: LossKL = "k2") -> PolicyGradient:
    r"""GRPO: clipped policy gradient, averaged over each sample's tokens, on scores standardised within the prompt.

    ℓ = (1/T) Σ_t [ −min(ω_t A, clip(ω_t, 1 − clip, 1 + clip) A) + β kl(d_t) ],
    ω = π/π_old,  d = log π/π_ref,
    k2(d) = ½d²,  k3(d) = ω(e^−d + d − 1),  k3_as_printed(d) = e^−d + d − 1;  A < 0: ℓ ≤ −dual·A

    Source: Shao et al. 2024, arXiv 2402.03300, eq. 3; the paper has β 0.04 and k3_as_printed.
    Units: β per nat of a token, in units of the standardised reward; 0 means no KL and no reference, as in TRL. clip is
    a ratio.
    When: eight or more samples a prompt, with rewards that can be verified. Scores become advantages by the rule
    group_std of a loop.
    Differs: the KL is k2 by default, whose gradient is that of KL(π‖π_ref) of each token; k3 as the paper prints it has
    the gradient of the other direction, KL(π_ref‖π). dual bounds the loss of bad samples (arXiv 1912.09729).
    Fails: a token of a short sample counts more than one of a long sample, so wrong answers get longer. Dividing by the
    deviation weighs hard and easy prompts more than middling ones. Prompts with equal scores give nothing.
    """
    return PolicyGradient(Clipped(clip, clip, dual), "response_mean", kl=_in_loss(beta, kl))


@register
def dr_grpo(beta: float = 0.0, clip: float = 0.2, horizon: float | None = None, kl: LossKL = "k2") -> PolicyGradient:
    r"""Dr. GRPO: GRPO without its two divisors, the length of the sample and the deviation of the scores.

    ℓ = (1/horizon) Σ_t [ −min(ω_t A, clip(ω_t, 1 − clip, 1 + clip) A) + β kl(d_t) ],
    d = log π/π_ref,  kl as in `grpo`

    Source: Liu et al. 2025, arXiv 2503.20783; horizon is the most tokens of a sample.
    Units: β in reward per nat of a token; 0 means no KL and no reference. horizon in tokens, off means 1.
    When: as `grpo`, where responses must not grow by themselves. Scores become advantages by the rule mean of a loop.
    Differs: with horizon off the loss and its gradient are larger by that factor, which Adam does not see and
    clipping of gradients does.
    Fails: prompts with equal scores give nothing. Prompts whose scores differ more count more.
    """
    return PolicyGradient(Clipped(clip, clip), "response_sum", horizon, _in_loss(beta, kl))


@register
def dapo(clip_low: float = 0.2, clip_high: float = 0.28) -> PolicyGradient:
    r"""DAPO: GRPO whose upper clip is wider, divided by the tokens of the step, without a KL.

    ℓ = Σ_t −min(ω_t A, clip(ω_t, 1 − clip_low, 1 + clip_high) A),  ω = π/π_old

    Source: Yu et al. 2025, arXiv 2503.14476.
    Units: the clips are ratios.
    When: long answers with rewards that can be verified; every token of a step counts the same. Scores become
    advantages by the rule group_std of a loop.
    Differs: the authors also replace prompts with equal scores by others (loop.refills) and lower the score of overlong
    samples (shaping.overlong_tokens); those are settings of a loop. The divisor is that of the whole step over all
    ranks.
    Fails: a long sample counts more than a short one. Without a KL nothing bounds the distance to the reference.
    """
    return PolicyGradient(Clipped(clip_low, clip_high), "token")


@register
def gspo(clip_low: float = 3e-4, clip_high: float = 4e-4, beta: float = 0.0, kl: LossKL = "k2") -> PolicyGradient:
    r"""GSPO: clips one ratio for the whole response, the geometric mean over its tokens.

    ℓ = −min(s A, clip(s, 1 − clip_low, 1 + clip_high) A) + (β/T) Σ_t kl(d_t),
    s = (π/π_old(y))^(1/T),  d = log π/π_ref,  kl as in `grpo`

    Source: Zheng et al. 2025, arXiv 2507.18071; the clips are those of its experiments.
    Units: the clips are ratios of the mean token, so they are far smaller than those of `grpo`. β as in `grpo`.
    When: several steps on the same samples of a mixture of experts, whose ratios per token jump with the routing.
    Differs: the loss is divided by the samples of the step, as in the paper; dividing by tokens gives long samples more
    weight.
    Fails: one ratio clips all tokens of a response or none. Prompts with equal scores give nothing.
    """
    return PolicyGradient(SequenceClipped(clip_low, clip_high), "response_mean", kl=_in_loss(beta, kl))


@register
def cispo(max_ratio: float = 5.0, beta: float = 0.0, kl: LossKL = "k2") -> PolicyGradient:
    r"""CISPO: REINFORCE with a truncated importance weight: no token loses its gradient.

    ℓ = Σ_t [ −min(ω_t, max_ratio) A log π(y_t) + β kl(d_t) ],
    ω = π/π_old without gradient,  d = log π/π_ref,  kl as in `grpo`

    Source: MiniMax 2025, arXiv 2506.13585; max_ratio 5 is that of ScaleRL (arXiv 2510.13786).
    Units: max_ratio is a ratio. β as in `grpo`. The loss is divided by the tokens of the step.
    When: several steps on the same samples, where rare and decisive tokens must keep their gradient. Scores become
    advantages by the rule group_std of a loop.
    Differs: weights below 1 are not clipped; verl's default clips to a narrow band around 1, which is not the paper's.
    Fails: a sample with a negative advantage is pushed down at its full weight, however far it already is.
    """
    return PolicyGradient(TruncatedWeight(max_ratio), "token", kl=_in_loss(beta, kl))


@register
def dppo(delta: float = 0.2, max_ratio: float = 20.0) -> PolicyGradient:
    r"""DPPO: leaves out a token once its probability, not its ratio, has moved too far in the direction of A.

    ℓ = Σ_t −M_t min(ω_t, max_ratio) A log π(y_t),
    M_t = 0 if sign(A)·(π − π_old)(y_t) > delta, else 1

    Source: Qi et al. 2026, arXiv 2602.04879, in its form with the total variation of one token.
    Units: delta is a probability, max_ratio a ratio. The loss is divided by the tokens of the step.
    When: several steps on the same samples; clipping of ratios stops rare tokens too early and frequent ones too late.
    Differs: the weight is without gradient and truncated, as in the public code; the paper's figure has both forms.
    Fails: a rare token with a negative advantage may lose all of its probability without ever moving by delta.
    """
    return PolicyGradient(ProbabilityMask(delta, max_ratio), "token")


@register
def reinforce_pp(beta: float = 0.01, clip: float = 0.2) -> PolicyGradient:
    r"""REINFORCE++: clipped policy gradient whose advantages are whitened over all tokens of the step.

    ℓ = Σ_t −min(ω_t Â_t, clip(ω_t, 1 − clip, 1 + clip) Â_t),
    Â = (A − mean A) / std A over the tokens of the step,
    A_t = A − β Σ_{s≥t} log π/π_ref(y_s)

    Source: Hu et al. 2025, arXiv 2501.03262; β 0.01 as in its code.
    Units: β in reward per nat of the whole response; whitening divides both by the deviation of the step.
    When: one sample a prompt. Scores become advantages by the rule score of a loop; with the rule mean it is the
    paper's variant with a baseline of the group.
    Differs: mean and deviation are those of the whole step over all ranks, and each token counts the same.
    Fails: the deviation changes from step to step, so the strength of the KL does too. A step with few prompts has a
    noisy mean.
    """
    kl = ReferenceKL(beta) if beta else None
    return PolicyGradient(Clipped(clip, clip), "token", kl=kl, whiten=True)


@register
def ppo(
    beta: float = 0.05,
    clip: float = 0.2,
    discount: float = 1.0,
    trace: float = 0.95,
    value_coef: float = 0.1,
    value_clip: float | None = None,
) -> PolicyGradient:
    r"""PPO: clipped policy gradient whose advantages a critic makes, which is trained beside the policy.

    ℓ = Σ_t [ −min(ω_t Â_t, clip(ω_t, 1 − clip, 1 + clip) Â_t) + value_coef ½(V_t − G_t)² ],
    Â = (A − mean A) / std A over the tokens of the step,
    A_t = Σ_{l≥0} (discount·trace)^l δ_{t+l},  G_t = A_t + V_t,
    δ_t = r_t + discount V_{t+1} − V_t,  r_t = −β log π/π_ref(y_t), and the score with the last token

    Source: Schulman et al. 2017, arXiv 1707.06347, eq. 7 and 11; for language models Ouyang et al. 2022, arXiv
    2203.02155; β, trace and value_coef are TRL's.
    Units: β in reward per nat of the whole response; V, G and value_clip in units of the score; the loss is divided by
    the tokens of the step.
    When: several steps on the same samples with one sample a prompt, or rewards that come before the end. With several
    samples a prompt `rloo` needs no critic. Its scores become rewards by the rule score of a loop.
    Differs: the critic is a linear layer on the policy's states, which the gradient of its loss does not reach; a
    critic with a body of its own is not there. A cut sample is worth nothing after its end. value_clip is off.
    Whitening reads the tokens of the whole step and all ranks. The policy is at temperature 1, as π_ref.
    Fails: while the critic is wrong, advantages are biased unless trace and discount are 1. Whitening changes the
    strength of β from step to step. It begins with all values 0.
    """
    kl = ReferenceKL(beta) if beta else None
    critic = Critic(discount, trace, value_coef, value_clip)
    return PolicyGradient(Clipped(clip, clip), "token", kl=kl, whiten=True, critic=critic)


@register
def opd(discount: float = 0.0) -> PolicyGradient:
    r"""On-policy distillation: brings the policy to a teacher on the policy's own samples; no score is read.

    ℓ = Σ_t log π(y_t) · Σ_{s≥t} discount^(s−t) log π/π_teacher(y_s),
    the second factor without gradient

    Source: Agarwal et al. 2023, arXiv 2306.13649 (GKD); Gu et al. 2023, arXiv 2306.08543 (MiniLLM).
    Units: nats of a token; the loss is divided by the tokens of the step. discount 0 is the KL(π‖π_teacher) of each
    token with the tokens before it held; 1 is that of whole responses.
    When: a teacher with the same tokens, and prompts without answers. The teacher is the reference of the loop.
    Differs: the divergence is estimated from the sampled token; GKD sums over the vocabulary and offers other ones.
    Fails: where the teacher gives nearly no probability to what the policy says, the gradient has a large variance. It
    never sees answers that the policy does not draw.
    """
    return PolicyGradient(Reinforce(), "token", kl=ReferenceKL(1.0, discount=discount))
