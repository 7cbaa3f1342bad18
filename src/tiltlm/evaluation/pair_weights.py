"""The weight of each comparison in the gradient: the slope of the loss at its margin.

The gradient of a pairwise loss is Σ w·∇(margin), w = |dℓ/d margin|. A logistic loss has w ≤ 1 and stops reading pairs
that are ranked right with a large margin; after training a few wrong or noisy pairs may carry most of the weight.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tiltlm.evaluation.change import Change, mean_by_prompt
from tiltlm.evaluation.contrast import compared_responses
from tiltlm.evaluation.example_rows import ExampleRow
from tiltlm.links import Link

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PairWeights:
    """Weights of held-out comparisons before and after training."""

    mean: Change
    """Mean of |dℓ/d margin|: how much a step still learns from a comparison, relative to before."""
    effective_share: tuple[float, float]
    """(Σw)²/(B·Σw²) before and after: 1 if all comparisons weigh the same, near 0 if a few carry all."""
    heaviest_tenth: tuple[float, float]
    """Share of all weight on the heaviest tenth of the comparisons, before and after."""


def slopes(link: Link, margins: Floats, preference: Floats) -> Floats:
    """Return |dℓ/dm| of p·ℓ(m) + (1 − p)·ℓ(−m) at each margin, [B]."""
    margin = torch.tensor(margins, dtype=torch.float64, requires_grad=True)
    p = torch.tensor(preference, dtype=torch.float64)
    (slope,) = torch.autograd.grad((p * link(margin) + (1 - p) * link(-margin)).sum(), margin)
    sizes: Floats = slope.abs().numpy()
    return sizes


def measure_pair_weights(
    before: Sequence[ExampleRow], after: Sequence[ExampleRow], link: Link, *, seed: int = 0
) -> PairWeights | None:
    """Return the weights of the comparisons of held-out rows; None without comparisons.

    Args:
        before: The rows before training.
        after: The same rows after training.
        link: The link of the objective.
        seed: Seed of the bootstrap over prompts.
    """
    pairs = [(e, c) for e, row in enumerate(after) for c in compared_responses(row) if row.comparisons]
    if not pairs:
        return None
    preference = np.array([c.preference for _, c in pairs])
    offset = np.array([c.offset for _, c in pairs])
    unit = np.unique([after[e].prompt for e, _ in pairs], return_inverse=True)[1]

    def weights(rows: Sequence[ExampleRow]) -> Floats:
        margins = [rows[e].responses[c.chosen].reward - rows[e].responses[c.rejected].reward for e, c in pairs]
        return slopes(link, np.array(margins) - offset, preference)

    of_before, of_after = weights(before), weights(after)
    num_prompts = int(unit.max()) + 1
    return PairWeights(
        mean=Change.of(mean_by_prompt(of_before, unit), mean_by_prompt(of_after, unit), num_prompts, seed=seed),
        effective_share=(_effective_share(of_before), _effective_share(of_after)),
        heaviest_tenth=(_heaviest_tenth(of_before), _heaviest_tenth(of_after)),
    )


def _effective_share(weights: Floats) -> float:
    total = float(np.square(weights).sum())
    return float(weights.sum() ** 2 / (len(weights) * total)) if total > 0 else 1.0


def _heaviest_tenth(weights: Floats) -> float:
    count = max(1, round(len(weights) / 10))
    total = float(weights.sum())
    return float(np.sort(weights)[-count:].sum() / total) if total > 0 else count / len(weights)
