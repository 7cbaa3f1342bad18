"""Single responses: thumbs up and down, and demonstrations."""

from tiltlm.links import Logistic, Sigmoid
from tiltlm.objectives.catalog.registry import register
from tiltlm.objectives.parts.statistics import BalancedMean, MismatchedKL
from tiltlm.objectives.shapes.demonstration import Demonstration
from tiltlm.objectives.shapes.unpaired import Unpaired
from tiltlm.rewards import LogRatio, SeqLogp


@register
def kto(beta: float = 0.1, desirable_weight: float = 1.0, undesirable_weight: float = 1.0) -> Unpaired:
    r"""KTO: single thumbs up or down, valued against what the policy does to responses of other prompts.

    ℓ = λ_D·(1 − σ(β(ρ − z0))) if desirable, λ_U·(1 − σ(β(z0 − ρ))) if not,  ρ = log π/π_ref(y|x),
    z0 = max(0, mean of log π/π_ref over mismatched (x, y′)), without gradient

    Source: Ethayarajh et al. 2024, arXiv 2402.01306.
    Units: β in reward per nat of the whole response, 0.01 to 1; λ_D is desirable_weight, λ_U undesirable_weight. With
    n_D desirable and n_U undesirable rows the paper's last version keeps λ_D·n_D / (λ_U·n_U) between 1 and 3/2; TRL
    warns outside 1 to 4/3.
    When: thumbs up and down on single responses, unbalanced even. Steps of 8 rows and more: z0 is a mean over them.
    Differs: the baseline z0 is pooled over the whole step and all ranks and clamped once. TRL rotates completions by
    one inside each device's batch and averages devices; HALOs leaves zeros out. Its mean is of mismatched pairs, not of
    the batch's own rewards.
    Fails: responses that are mostly undesirable lose all mass at the optimum. Very good and very bad examples both lose
    their gradient. z0 is a biased stand-in for the KL and none itself: do not read it as one.
    """
    reward = LogRatio(beta)
    return Unpaired(reward, Sigmoid(), MismatchedKL(reward), desirable_weight, undesirable_weight)


@register
def bco(beta: float = 0.01) -> Unpaired:
    r"""BCO: a classifier of thumbs up and down whose logit is the implicit reward, shifted to the middle.

    ℓ = −log σ(βρ − δ) if desirable, −log σ(δ − βρ) if not,  ρ = log π/π_ref(y|x),
    δ = ½ (mean βρ of desirable + mean βρ of undesirable responses so far), without gradient

    Source: Jung et al. 2024, arXiv 2404.04656.
    Units: β per nat of the whole response; 0.01 in the paper, TRL 0.1. δ in units of the reward.
    When: thumbs up and down on single responses, where `kto`'s fading gradients are unwanted.
    Differs: δ is half the sum of two class means, as the paper writes it; the authors' code and TRL take one mean over
    both classes, the same where they are equally many. The authors' weights for shifted prompts (UDM) go into the
    column `weight`.
    Fails: δ remembers the whole run, so it lags behind fast changes; checkpoints keep it. Certain labels have no finite
    optimum. Prompts of different difficulty share one δ.
    """
    reward = LogRatio(beta)
    return Unpaired(reward, Logistic(), BalancedMean(reward))


@register
def sft() -> Demonstration:
    r"""SFT: maximum likelihood of the demonstrated response; of a pair, the chosen one.

    ℓ = −Σ log π(y|x) / Σ T(y), both sums over the whole optimiser step

    Source: the negative log-likelihood; Ouyang et al. 2022, arXiv 2203.02155, step 1.
    Units: nats per token; every response token of a step counts the same.
    When: good answers and nothing to compare them with; the first stage before the others.
    Differs: divided by the tokens of the whole step. TRL divides by those of the batch, the original DPO code sums each
    response, others average each response: with responses of different length each is another loss.
    Fails: it imitates everything in a response, flaws too, and knows nothing of bad ones. Long responses have the most
    say.
    """
    return Demonstration(SeqLogp())
