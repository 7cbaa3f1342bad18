"""Measure where training moves probability: what is fixed before the first step, and what has changed after the last.

At most about `ROWS` held-out examples are measured, every k-th prompt, so that large held-out data costs no more. All
processes of a run measure together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tiltlm.core import Example
from tiltlm.data.cache.fingerprints import prompt_numbers
from tiltlm.distributed import Ranks
from tiltlm.evaluation.ches import Ches, comparison_ches, summarise_ches
from tiltlm.evaluation.pair_weights import PairWeights, measure_pair_weights
from tiltlm.evaluation.probability import Probability
from tiltlm.evaluation.third_responses import (
    ProbabilityShift,
    ThirdResponses,
    choose_third_responses,
    measure_shift,
    third_logps,
    top_token_logps,
)
from tiltlm.links import Link
from tiltlm.logprobs import PolicyModule
from tiltlm.models import Policy
from tiltlm.objectives import Objective, Pairwise, WeightedSum
from tiltlm.recipes.measuring.measurement import Measurement
from tiltlm.recipes.prepare import Prepared
from tiltlm.recipes.run_settings import RunSettings
from tiltlm.sampling import Sampled, SamplingSettings

Floats = NDArray[np.float64]

ROWS = 500
"""Approximate number of held-out examples that are measured."""


@dataclass(frozen=True, eq=False)
class Start:
    """What is measured before training, and what is measured again after it."""

    rows: list[int]
    """Numbers of the held-out examples that are measured."""
    examples: list[Example]
    ches: list[Floats] | None
    """CHES of each example's comparisons; None without comparisons, or for a head of an unknown form."""
    third: ThirdResponses | None
    """None if nothing was sampled."""
    greedy: list[Sampled]
    logps: Floats | None
    """Log-probabilities of the third responses."""
    top: Floats
    """Of the most likely token along the better response of each example."""


def measure_start(ready: Prepared, settings: RunSettings, before: Measurement, ranks: Ranks) -> Start | None:
    """Measure before the first step; None for a reward model, or if nothing is held out."""
    if not isinstance(ready.policy, Policy) or not ready.data.held_out:
        return None
    module, max_tokens = ready.policy.module, settings.training.max_tokens
    numbers = prompt_numbers(ready.data.held_out)
    step = max(1, len(ready.data.held_out) // ROWS)
    rows = np.flatnonzero(numbers % step == 0).tolist()
    examples = [ready.data.held_out[row] for row in rows]
    third, greedy, logps = None, list[Sampled](), None
    if before.draws is not None:
        greedy = greedy_responses(ready, settings, module, before, ranks)
        third = choose_third_responses(before.draws.prompts, before.draws.samples, greedy, examples)
        logps = third_logps(module, third, max_tokens, ranks)
    has_comparisons = any(example.comparisons for example in examples)
    known = has_comparisons and module.head.route != "model"
    ches = comparison_ches(module, examples, max_tokens, ranks) if known else None
    top = top_token_logps(module, examples, max_tokens, ranks)
    return Start(rows, examples, ches, third, greedy, logps, top)


def greedy_responses(
    ready: Prepared, settings: RunSettings, module: PolicyModule, before: Measurement, ranks: Ranks
) -> list[Sampled]:
    """Return the greedy response to each sampled prompt, with the present weights."""
    assert before.draws is not None, "prompts are those that were sampled"
    drawn = SamplingSettings(settings.evaluation.max_new_tokens, temperature=0.0)
    ends = ready.sampling_ends
    found = ready.draw(module, before.draws.prompts, 1, drawn, seed=0, end_token_ids=ends, ranks=ranks)
    return [own[0] for own in found]


def compare_with_start(
    ready: Prepared,
    settings: RunSettings,
    start: Start | None,
    before: Measurement,
    after: Measurement,
    ranks: Ranks,
) -> Probability | None:
    """Measure again after training; None if nothing was measured before."""
    if start is None or not isinstance(ready.policy, Policy):
        return None
    return Probability(
        shift=_shift(ready, settings, start, before, ranks),
        ches=_ches(start, before, after),
        weights=_weights(ready.objective, before, after),
    )


def _shift(
    ready: Prepared, settings: RunSettings, start: Start, before: Measurement, ranks: Ranks
) -> ProbabilityShift | None:
    if start.third is None or start.logps is None:
        return None
    module, max_tokens = ready.policy.module, settings.training.max_tokens
    assert isinstance(module, PolicyModule), "a reward model has no start"
    greedy = greedy_responses(ready, settings, module, before, ranks)
    changed = [not np.array_equal(a.token_ids, b.token_ids) for a, b in zip(start.greedy, greedy, strict=True)]
    return measure_shift(
        start.third,
        start.logps,
        third_logps(module, start.third, max_tokens, ranks),
        start.top,
        top_token_logps(module, start.examples, max_tokens, ranks),
        prompt_numbers(start.examples),
        changed,
    )


def _ches(start: Start, before: Measurement, after: Measurement) -> Ches | None:
    """Return CHES with its correlation to what the better responses lost."""
    if start.ches is None:
        return None
    shifts = []
    for row, example in zip(start.rows, start.examples, strict=True):
        best = example.comparisons[0].chosen if example.comparisons else 0
        late, early = after.rows[row].responses[best].logps, before.rows[row].responses[best].logps
        assert late is not None, "a policy gives log-probabilities"
        assert early is not None, "a policy gives log-probabilities"
        shifts.append(late - early)
    return summarise_ches(start.ches, shifts, prompt_numbers(start.examples))


def _weights(objective: Objective, before: Measurement, after: Measurement) -> PairWeights | None:
    """Return the weights of comparisons, for objectives whose gradient is the slope of one link at the margin."""
    link = link_of(objective)
    return None if link is None else measure_pair_weights(before.rows, after.rows, link)


def link_of(objective: Objective) -> Link | None:
    """Return the link that alone weighs a comparison; None if other terms weigh it too."""
    first: Objective | Sequence[Objective] = objective.objectives if isinstance(objective, WeightedSum) else objective
    logged = first[0] if isinstance(first, Sequence) else first
    if not isinstance(logged, Pairwise) or logged.adjustments or logged.weighting or logged.strength != 1.0:
        return None
    return logged.link
