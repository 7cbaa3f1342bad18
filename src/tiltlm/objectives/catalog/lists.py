"""Methods for ranked and scored lists; for two of them the form for pairs is better known."""

from tiltlm.core import ConfigError
from tiltlm.core.checks import positive
from tiltlm.links import Logistic, ReverseKL
from tiltlm.objectives.catalog.registry import register
from tiltlm.objectives.shapes.listwise import CrossEntropy, Listwise, PlackettLuce, Regression, ReverseCrossEntropy
from tiltlm.objectives.shapes.pairwise import Pairwise
from tiltlm.rewards import LogRatio


@register
def pl_dpo(beta: float = 0.1) -> Listwise:
    r"""Plackett–Luce DPO: fits the likelihood of a whole ranking, best first, instead of its pairs.

    ℓ = −Σ_k [ r_k − log Σ_{j ≥ k} e^{r_j} ],  r = β log π/π_ref,  responses in order of rank

    Source: Rafailov et al. 2023, arXiv 2305.18290, appendix.
    Units: β per nat of the whole response.
    When: rankings of several responses. Equal ranks are groups in unknown order: the loss sums over all their orders,
    for at most 10 responses that share a rank above others.
    Differs: `dpo` on all pairs of a list treats dependent pairs as independent; here a ranking is one example with one
    likelihood. With two responses it is `dpo`.
    Fails: it uses only the order, not by how much one response is better. With certain rankings there is no finite
    optimum.
    """
    return Listwise(LogRatio(beta), PlackettLuce())


@register
def info_nca(beta: float = 0.01, reward_temperature: float | None = None) -> Pairwise | Listwise:
    r"""InfoNCA: classifies the better responses of a list by their scores.

    lists: ℓ = −Σ_k softmax(s/α)_k · log softmax(r)_k,  r = β log π/π_ref,  s the scores
    pairs: ℓ = −log σ(r_w − r_l), which is DPO

    Source: Chen et al. 2024, arXiv 2402.05369.
    Units: β per nat of the whole response. `reward_temperature` is α in units of the score; if it is given, the data
    must be scored lists.
    When: scored lists of several responses. On pairs it is `dpo`.
    Differs: the authors' `temperature` is 1/α, their lists have four responses, and their code adds 0.01 to the first
    score. EXO's code calls such a cross-entropy "dpo".
    Fails: the scale of the scores matters: a small α makes the target certain, and then there is no finite optimum.
    Only differences of rewards are fixed: chosen likelihoods may fall, which `nca` prevents.
    """
    if reward_temperature is None:
        return Pairwise(LogRatio(beta), Logistic())
    positive(reward_temperature=reward_temperature)
    return Listwise(LogRatio(beta), CrossEntropy(reward_temperature))


@register
def a_star_po(beta: float = 0.001) -> Listwise:
    r"""A*-PO: regresses the reward of each response onto its score minus the optimal value of its prompt.

    ℓ = Σ_k ( β log π/π_ref(y_k) − s_k )²,
    s = r − V,  V = β₁ log mean e^(r/β₁) over responses of π_ref

    Source: Brantley et al. 2025, arXiv 2505.20686, Algorithm 1; the paper has β 0.001 and β₁ 0.5.
    Units: β in score per nat of the whole response. The score s is an advantage, which the rule value_gap of a loop
    makes; β₁ is a setting of that rule.
    When: one sample a prompt and step, with the value of each prompt estimated from responses of the reference.
    Differs: the loss is that of the second stage; the estimate of V is the loop's, from responses of the reference that
    each round draws.
    Fails: what the reference never says has no value, so nothing beyond its responses can be learned. An error of V
    shifts the rewards of a prompt. An unscaled reward is a target of r/β nats, which may be out of reach.
    """
    positive(beta=beta)
    return Listwise(LogRatio(beta), Regression())


@register
def exo(
    beta: float = 0.5, label_smoothing: float | None = None, reward_temperature: float | None = None
) -> Pairwise | Listwise:
    r"""EXO: fits the policy's preferences to a soft target by reverse KL, which is mode-seeking.

    pairs: ℓ = KL( (q, 1−q) ‖ (1−ε, ε) ),  q = σ(r_w − r_l),  ε = label_smoothing (0.001)
    lists: ℓ = KL( softmax(r) ‖ softmax(s/β_r) ),  s the scores,  β_r = reward_temperature
    r = β log π/π_ref

    Source: Ji et al. 2024, arXiv 2402.00856.
    Units: β per nat of the whole response; β and β_r are 0.5 in the authors' scripts. `reward_temperature` is in units
    of the score; if it is given, the data must be scored lists, and label_smoothing is not used.
    When: scored lists, where its optimum is π_ref·e^(s/(β β_r))/Z; pairs whose labels are nearly certain.
    Differs: the authors' code uses log ε = −10 and omits log(1 − ε); TRL needs ε > 0 and recommends 0.001. `dpo` is the
    counterpart with forward KL.
    Fails: not convex: a pair with a very wrong margin has a small gradient, where that of `dpo` is largest. With labels
    that are right at rate p, drawn or soft, the optimal margin is (2p − 1) log((1 − ε)/ε). For p = 0.7 that is 2.76,
    and Bradley–Terry's is 0.85. Use `dpo` for such labels.
    """
    if reward_temperature is None:
        label_smoothing = 0.001 if label_smoothing is None else label_smoothing
        return Pairwise(LogRatio(beta), ReverseKL(label_smoothing))
    if label_smoothing is not None:
        raise ConfigError(
            "label_smoothing has no effect with reward_temperature: targets come from scores",
            code="no_effect",
            key="label_smoothing",
        )
    positive(reward_temperature=reward_temperature)
    return Listwise(LogRatio(beta), ReverseCrossEntropy(reward_temperature))
