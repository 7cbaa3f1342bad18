"""What held-out data says about a trained policy beside the untrained one: the verdict of a run without a gold reward.

Two tables of the same rows go in, one measured before training and one after it; out come the numbers of the verdict,
each with an interval by prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tiltlm.core import ConfigError
from tiltlm.diagnostics import LengthRule
from tiltlm.evaluation.change import Change, ratio_by_prompt
from tiltlm.evaluation.contrast import (
    Contrast,
    compared_responses,
    contrast_labels,
    contrast_pairs,
    is_policy,
    logps_of,
)
from tiltlm.evaluation.example_rows import ExampleRow


@dataclass(frozen=True)
class HeldOut:
    """Held-out rows under the untrained and the trained policy."""

    num_examples: int
    num_prompts: int
    """Distinct prompts: the independent units behind every interval."""
    contrast: Contrast | None
    """Better against worse responses; None where the data says nothing about which is better."""
    nll: Change | None
    """−log π(y) per token of the responses to imitate, all tokens counting alike; for objectives of demonstrations."""
    starts_at_reference: bool
    """Whether the untrained policy is the reference, so that its margins are 0 by definition."""
    learner: Literal["policy", "reward model"] = "policy"
    """What was trained."""


def compare_held_out(
    before: Sequence[ExampleRow],
    after: Sequence[ExampleRow],
    rule: LengthRule,
    *,
    starts_at_reference: bool = False,
    imitates: bool = False,
    seed: int = 0,
) -> HeldOut:
    """The numbers of the verdict.

    Args:
        before: Rows under the untrained policy (`measure`).
        after: The same rows, in the same order, under the trained one.
        rule: The length-only rule fitted on the training data (`fit_length_rule`).
        starts_at_reference: The objective compares with a reference, and the untrained policy is that reference. What
            is left of its rewards is rounding, which would rank pairs at random; it is taken as the 0 it stands for.
        imitates: The objective is about demonstrations.
        seed: Of the bootstrap.

    Raises:
        ConfigError: the tables are not of the same rows.
    """
    if not after or [row.id for row in before] != [row.id for row in after]:
        raise ConfigError(
            f"{len(before)} rows before and {len(after)} after training are not the same held-out rows; "
            "measure the same examples twice",
            code="other_rows",
        )
    if starts_at_reference:
        before = [replace(row, responses=tuple(replace(r, reward=0.0) for r in row.responses)) for row in before]
    num_examples, before, after = len(after), together(before), together(after)
    prompt = np.array([row.prompt for row in after])
    return HeldOut(
        num_examples=num_examples,
        num_prompts=len(set(prompt.tolist())),
        contrast=_contrast(before, after, prompt, rule, seed),
        nll=_nll(before, after, prompt, seed) if imitates else None,
        starts_at_reference=starts_at_reference,
        learner="policy" if is_policy(after) else "reward model",
    )


def together(rows: Sequence[ExampleRow]) -> Sequence[ExampleRow]:
    """Rows of single labels with the same prompt as one row, where most of them have a counterpart of the other label.

    A reward read off a policy is known up to a constant of the prompt, so that responses compare within a prompt;
    across prompts they do so only for want of better.
    """
    groups: dict[str, list[ExampleRow]] = {}
    for row in rows:
        if not row.labels or row.comparisons:
            return rows
        groups.setdefault(row.prompt, []).append(row)
    merged = [
        replace(
            group[0],
            responses=tuple(response for row in group for response in row.responses),
            labels=tuple(label for row in group for label in row.labels),
        )
        for group in groups.values()
    ]
    contrasted = sum(len(row.labels) for row in merged if len(set(row.labels)) == 2)
    return merged if contrasted >= sum(len(row.labels) for row in merged) / 2 else rows


def _contrast(
    before: Sequence[ExampleRow],
    after: Sequence[ExampleRow],
    prompt: NDArray[np.str_],
    rule: LengthRule,
    seed: int,
) -> Contrast | None:
    if any(compared_responses(row) for row in after):
        return contrast_pairs(before, after, prompt, rule, seed)
    if len({label for row in after for label in row.labels}) == 2:
        return contrast_labels(before, after, prompt, rule, seed)
    return None


def _nll(before: Sequence[ExampleRow], after: Sequence[ExampleRow], prompt: NDArray[np.str_], seed: int) -> Change:
    """Negative log-likelihood of the demonstrated responses, nats per token, as the loss of `sft` counts it."""
    numbers = np.unique(prompt, return_inverse=True)[1]
    shown = [(e, k) for e, row in enumerate(after) for k in _demonstrated(row)]
    tokens = np.array([after[e].responses[k].num_tokens for e, k in shown], dtype=np.float64)
    unit = numbers[[e for e, _ in shown]]

    def nll(rows: Sequence[ExampleRow]) -> np.ndarray:
        return np.array([-logps_of(rows[e].responses[k]) for e, k in shown])

    early, late = (ratio_by_prompt(nll(rows), tokens, unit) for rows in (before, after))
    return Change.of(early, late, int(numbers.max()) + 1, seed=seed)


def _demonstrated(row: ExampleRow) -> Sequence[int]:
    """The responses to imitate: chosen ones, or all where nothing is compared."""
    return sorted({c.chosen for c in row.comparisons}) or range(len(row.responses))
