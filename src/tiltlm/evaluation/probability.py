"""Where training moved probability, and which comparisons moved it."""

from dataclasses import dataclass

from tiltlm.evaluation.ches import Ches
from tiltlm.evaluation.pair_weights import PairWeights
from tiltlm.evaluation.third_responses import ProbabilityShift


@dataclass(frozen=True)
class Probability:
    """What happened beside the margins of held-out comparisons. A part that was not measured is None."""

    shift: ProbabilityShift | None
    """Responses that no row compares, before and after training."""
    ches: Ches | None
    """How alike the policy saw the responses of held-out comparisons before training."""
    weights: PairWeights | None
    """Weight of held-out comparisons in the gradient, before and after training."""
