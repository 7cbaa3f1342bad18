"""Losses of single rewards, not only of their difference. Adding a constant to a prompt's rewards changes them."""

from tiltlm.core.checks import not_negative, positive
from tiltlm.links import Logistic, Sigmoid, Squared
from tiltlm.objectives.catalog.registry import register
from tiltlm.objectives.parts.adjustments import ChosenDrop
from tiltlm.objectives.parts.regularisers import Anchor
from tiltlm.objectives.shapes.listwise import Listwise, NoiseContrast, Regression
from tiltlm.objectives.shapes.pairwise import Pairwise
from tiltlm.rewards import LogRatio


@register
def bco_pair(beta: float = 0.01) -> Pairwise:
    r"""BCO-pair: raises the chosen reward above 0 and lowers the rejected one below 0 (biasedNCA).

    ℓ = −log σ( βρ_w ) − log σ( −βρ_l ),  ρ = log π/π_ref

    Source: Jung et al. 2024, arXiv 2404.04656, without its shift δ.
    Units: β per nat of the whole response; 0.01 in the paper, TRL 0.1.
    When: comparisons whose chosen responses are good and whose rejected ones are bad in themselves. For single labels,
    with the shift: `bco`.
    Differs: TRL's `bco_pair` computes this since 0.29; before, it had the running shift. TRL's index of papers prints
    DPO's formula for it.
    Fails: the target of a reward is the log-odds of the win rate, P̄/(1 − P̄), which probabilities that sum to 1 meet
    only by chance. Constants of the prompt matter. With certain labels there is no finite optimum.
    """
    reward = LogRatio(beta)
    up, down = Anchor("chosen", reward, Logistic(), 1), Anchor("rejected", reward, Logistic(), -1)
    return Pairwise(reward, None, regularisers=(up, down))


@register
def nca(beta: float = 0.01, reward_temperature: float | None = None) -> Pairwise | Listwise:
    r"""NCA: separates the data from the reference by absolute rewards, so that chosen likelihoods do not fall.

    pairs: ℓ = −log σ(r_w) − ½ log σ(−r_w) − ½ log σ(−r_l),  r = β log π/π_ref
    lists: ℓ = −Σ_k softmax(s/α)_k log σ(r_k) − (1/K) Σ_k log σ(−r_k),  s the scores

    Source: Chen et al. 2024, arXiv 2402.05369.
    Units: β per nat of the whole response, 0.01 in the authors' code. `reward_temperature` is α in units of the score;
    if it is given, the data must be scored lists.
    When: pairs, or scored lists, if the likelihood of good responses must not fall.
    Differs: TRL's `nca_pair` is the form for pairs. The authors' `temperature` is 1/α, their lists have four responses,
    and their code adds 0.01 to the first score.
    Fails: the target e^r = 2P̄ is reached only if Σ π_ref·e^r = 1, as with β = 1 and responses from the reference.
    Constants of the prompt matter, and so does the scale of the scores.
    """
    reward = LogRatio(beta)
    if reward_temperature is not None:
        positive(reward_temperature=reward_temperature)
        return Listwise(reward, NoiseContrast(reward_temperature))
    anchors = (
        Anchor("chosen", reward, Logistic(), 1),
        Anchor("chosen", reward, Logistic(), -1, weight=0.5),
        Anchor("rejected", reward, Logistic(), -1, weight=0.5),
    )
    return Pairwise(reward, None, regularisers=anchors)


@register
def cal_dpo(beta: float = 0.002, calibration_weight: float = 1.0) -> Pairwise:
    r"""Cal-DPO: compares log-ratios, and moves each towards the value that a true reward would give it.

    ℓ = −log σ( ρ_w − ρ_l ) + c (ρ_w − 1/(2β))² + c (ρ_l + 1/(2β))²,
    ρ = log π/π_ref,  c = calibration_weight

    Source: Xiao et al. 2024, arXiv 2412.14516, in which β is in the targets only.
    Units: ρ in nats of the whole response, targets at ±1/(2β). β 0.002 or 0.001 in the authors' code; 0.001 to 0.01 is
    usual.
    When: comparisons where the chosen likelihood itself should rise, not only the margin.
    Differs: the factor c is 1 in the paper and here, ½ in the authors' code. Their logged rewards are raw
    log-probabilities.
    Fails: at the published β the targets are ±250 nats, and ρ_w cannot exceed −log π_ref(y_w|x): the squares then have
    a nearly constant gradient that is much larger than the comparison's. It is not invariant to constants of the
    prompt.
    """
    positive(beta=beta, calibration_weight=calibration_weight)
    reward, link = LogRatio(1.0), Squared(target=1 / (2 * beta))
    up = Anchor("chosen", reward, link, 1, calibration_weight)
    down = Anchor("rejected", reward, link, -1, calibration_weight)
    return Pairwise(reward, Logistic(), regularisers=(up, down))


@register
def sppo(beta: float = 0.001, baseline: float | None = None) -> Pairwise | Listwise:
    r"""SPPO: regresses each log-ratio onto the win rate of its side; repeated, it is self-play.

    pairs: ℓ = ½ (ρ_w − 1/(2β))² + ½ (ρ_l + 1/(2β))²,  ρ = log π/π_ref
    lists: ℓ = ½ Σ_k (ρ_k − (s_k − baseline)/β)²,  s the win rates

    Source: Wu et al. 2024, arXiv 2405.00675; for pairs with win rates 1 and 0. The reference is the last
    iterate.
    Units: ρ in nats of the whole response; 1/β is the step size. β 0.001 is the authors', so that targets are ±500
    nats. If baseline is given, the data must be scored lists whose scores are win rates; the authors' is ½.
    When: rounds of sampling from the policy and judging its samples, each round with the last policy as the reference.
    A soft label p, a win rate, moves the targets to ±(p − ½)/β.
    Differs: TRL's `sppo_hard` has no ½ before the squares and β 0.1, so targets of ±5.
    Fails: log Z is treated as a constant: this is exact for small steps 1/β, and gives another policy for large ones.
    Targets that cannot be reached have a nearly constant gradient. Constants of the prompt matter.
    """
    positive(beta=beta)
    if baseline is not None:
        return Listwise(LogRatio(1.0), Regression(scale=1 / beta, baseline=baseline, weight=0.5))
    reward, link = LogRatio(1.0), Squared(target=1 / (2 * beta))
    up = Anchor("chosen", reward, link, 1, weight=0.5)
    down = Anchor("rejected", reward, link, -1, weight=0.5)
    return Pairwise(reward, None, regularisers=(up, down))


@register
def apo_zero(beta: float = 0.1) -> Pairwise:
    r"""APO-zero: raises the chosen reward and lowers the rejected one, each relative to 0.

    ℓ = (1 − σ(βρ_w)) + σ(βρ_l),  ρ = log π/π_ref

    Source: D'Oosterlinck et al. 2024, arXiv 2408.06266.
    Units: β per nat of the whole response; 0.1 is the authors'.
    When: the chosen responses are better than the model's own; use `apo_down` if they are not.
    Differs: as the authors' code and TRL. Some codes omit the constants: the gradient is the same, the value is not.
    Fails: no finite optimum: each reward goes to an extreme by the majority of its labels, and responses that mostly
    lose get no probability. The gradient vanishes for pairs with a very large or very small margin.
    """
    reward = LogRatio(beta)
    up, down = Anchor("chosen", reward, Sigmoid(), 1), Anchor("rejected", reward, Sigmoid(), -1)
    return Pairwise(reward, None, regularisers=(up, down))


@register
def apo_down(beta: float = 0.1) -> Pairwise:
    r"""APO-down: lowers both rewards, and the rejected one more.

    ℓ = σ(βρ_w) + 1 − σ( β [ ρ_w − ρ_l ] ),  ρ = log π/π_ref

    Source: D'Oosterlinck et al. 2024, arXiv 2408.06266.
    Units: β per nat of the whole response; 0.1 is the authors'.
    When: the model's own responses are already better than both of its data; use `apo_zero` if the chosen ones are
    better.
    Differs: as the authors' code and TRL. Some codes omit the constants: the gradient is the same, the value is not.
    Fails: it lowers the likelihood of chosen responses on purpose. No finite optimum. At the reference its first step
    changes the rejected side only.
    """
    reward = LogRatio(beta)
    return Pairwise(reward, Sigmoid(), regularisers=(Anchor("chosen", reward, Sigmoid(), -1),))


@register
def dpop(beta: float = 0.3, positive_weight: float = 50.0) -> Pairwise:
    r"""DPO-Positive (Smaug): adds to DPO a penalty on chosen responses that fall below the reference.

    ℓ = −log σ( β [ ρ_w − ρ_l − λ·max(0, −ρ_w) ] ),  ρ = log π/π_ref,  λ = positive_weight

    Source: Pal et al. 2024, arXiv 2402.13228, with the penalty inside σ and times β.
    Units: β per nat of the whole response, λ has none. Users of the paper report λ 50; β 0.3 could not be checked.
    When: pairs that differ in a few tokens, where `dpo` lowers both likelihoods. If no chosen response is below the
    reference, it is `dpo`.
    Differs: no code by the authors is known. Community versions put the penalty outside σ or omit β from it; these
    drift or diverge at λ = 50.
    Fails: below the reference the chosen side's gradient is 1 + λ times the rejected side's, 51 at λ = 50, with a kink
    at the reference: expect jumps in grad_norm.
    """
    not_negative(positive_weight=positive_weight)
    return Pairwise(LogRatio(beta), Logistic(), adjustments=(ChosenDrop(beta * positive_weight),))
