"""Methods for single responses: labelled good or bad, or demonstrations."""

from tiltlm.links import Logistic, Sigmoid
from tiltlm.objectives.catalog.registry import register
from tiltlm.objectives.parts.statistics import BalancedMean, MismatchedKL
from tiltlm.objectives.shapes.demonstration import Demonstration
from tiltlm.objectives.shapes.unpaired import Unpaired
from tiltlm.rewards import LogRatio, SeqLogp


@register
def kto(beta: float = 0.1, desirable_weight: float = 1.0, undesirable_weight: float = 1.0) -> Unpaired:
    r"""KTO: learns from responses labelled good or bad, relative to log-ratios on other prompts' responses.

    ℓ = λ_D·(1 − σ(β(ρ − z0))) if desirable, λ_U·(1 − σ(β(z0 − ρ))) if not,  ρ = log π/π_ref(y|x),
    z0 = max(0, weighted mean of log π/π_ref over mismatched (x, y′)), without gradient

    Source: Ethayarajh et al. 2024, arXiv 2402.01306.
    Units: β in reward per nat of the whole response, 0.01 to 1; λ_D is desirable_weight, λ_U undesirable_weight. With
    n_D desirable and n_U undesirable rows the paper's last version keeps λ_D·n_D / (λ_U·n_U) between 1 and 3/2; TRL
    warns outside 1 to 4/3.
    When: single responses labelled good or bad, also if the classes are unbalanced. Use at least 8 rows per step: z0 is
    a mean over them.
    Differs: the baseline z0 is a mean over the whole step and all ranks, clamped once. TRL rotates completions by one
    inside each device's batch and averages devices; HALOs leaves zeros out. The mean is over mismatched pairs, not over
    the batch's own rewards. A pair counts with the `weight` of its prompt's row; TRL and HALOs have no such column.
    Fails: at the optimum, responses that are mostly undesirable get no probability. The gradient vanishes for very good
    and for very bad examples. z0 is a biased estimate of the KL: do not report it as the KL.
    """
    reward = LogRatio(beta)
    return Unpaired(reward, Sigmoid(), MismatchedKL(reward), desirable_weight, undesirable_weight)


@register
def bco(beta: float = 0.01) -> Unpaired:
    r"""BCO: trains a classifier of good and bad responses, whose logit is the implicit reward minus a shift.

    ℓ = −log σ(βρ − δ) if desirable, −log σ(δ − βρ) if not,  ρ = log π/π_ref(y|x),
    δ = ½ (weighted mean βρ of desirable + of undesirable responses so far), without gradient

    Source: Jung et al. 2024, arXiv 2404.04656.
    Units: β per nat of the whole response; 0.01 in the paper, TRL 0.1. δ in units of the reward.
    When: single responses labelled good or bad, if the vanishing gradients of `kto` are unwanted.
    Differs: δ is half the sum of two class means, as the paper writes it; the authors' code and TRL take one mean over
    both classes, which is the same if both have equally many responses. The authors' weights for shifted prompts (UDM)
    go into the column `weight`, with which a response also counts in δ; theirs leave δ as it is.
    Fails: δ is a mean over the whole run, so it follows fast changes slowly; checkpoints contain it. With certain
    labels there is no finite optimum. Prompts of different difficulty share one δ.
    """
    reward = LogRatio(beta)
    return Unpaired(reward, Logistic(), BalancedMean(reward))


@register
def sft() -> Demonstration:
    r"""SFT: maximises the likelihood of the demonstrated response, or of the chosen one of a pair.

    ℓ = −Σ log π(y|x) / Σ T(y), both sums over the whole optimiser step

    Source: the negative log-likelihood; Ouyang et al. 2022, arXiv 2203.02155, step 1.
    Units: nats per token; every response token of a step counts the same.
    When: good responses without others to compare them with; the first stage before other methods.
    Differs: divided by the tokens of the whole step. TRL divides by those of the batch, the original DPO code sums each
    response, others average each response: if lengths differ, each of these is another loss.
    Fails: it imitates everything in a response, including its flaws, and does not learn from bad responses. Long
    responses have the most weight.
    """
    return Demonstration(SeqLogp())
