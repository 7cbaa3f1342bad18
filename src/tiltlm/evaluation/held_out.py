"""Compare the trained policy with the untrained one on held-out data.

The input is two tables of the same rows, one measured before training and one after it. The result is the numbers of a
run's verdict, each with an interval over prompts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tiltlm.core import ConfigError
from tiltlm.diagnostics import Interval, LengthRule, bootstrap_mean
from tiltlm.diagnostics.step_metrics import MAX_SOURCES, NO_SOURCE
from tiltlm.evaluation.change import Change, ratio_by_prompt
from tiltlm.evaluation.contrast import (
    Contrast,
    accuracy_by_prompt,
    compared_responses,
    contrast_labels,
    contrast_pairs,
    is_policy,
    logps_of,
)
from tiltlm.evaluation.example_rows import ExampleRow


@dataclass(frozen=True)
class SourceChange:
    """The held-out rows of one source. A number that its rows do not have is None."""

    num_examples: int
    num_prompts: int
    accuracy: Change | None
    """`Contrast.accuracy` of these rows."""
    margin: Change | None
    """`Contrast.margin` of these rows."""
    nll: Change | None
    """`HeldOut.nll` of these rows."""


@dataclass(frozen=True)
class HeldOut:
    """Held-out rows under the untrained and the trained policy."""

    num_examples: int
    num_prompts: int
    """Distinct prompts: the independent units of every interval."""
    contrast: Contrast | None
    """Better against worse responses; None if the data does not say which is better."""
    nll: Change | None
    """−log π(y) per token of the demonstrated responses, every token with equal weight. None unless the objective is of
    demonstrations."""
    starts_at_reference: bool
    """True if the untrained policy is the reference, so that its margins are 0 by definition."""
    shift: Interval | None = None
    """Mean size of the change of log π(y) of the held-out responses, nats per response: how far training moved the
    policy on this data, in either direction. None for a reward model."""
    learner: Literal["policy", "reward model"] = "policy"
    """The kind of model that was trained."""
    accuracy_by_prompt: Mapping[str, float] = field(default_factory=dict)
    """Ranking accuracy after training at each prompt, by the prompt's digest: it pairs runs on the same data. Empty if
    responses are not compared within a prompt."""
    by_source: Mapping[str, SourceChange] = field(default_factory=dict)
    """The rows of each source. Empty if there is one source, or more than `MAX_SOURCES`."""


def compare_held_out(
    before: Sequence[ExampleRow],
    after: Sequence[ExampleRow],
    rule: LengthRule,
    *,
    starts_at_reference: bool = False,
    imitates: bool = False,
    log_odds: bool = True,
    seed: int = 0,
) -> HeldOut:
    """Compare two measurements of the same held-out rows.

    Args:
        before: The rows under the untrained policy (`measure_examples`).
        after: The same rows, in the same order, under the trained policy.
        rule: The length rule, fitted on the training data (`fit_length_rule`).
        starts_at_reference: The objective compares with a reference, and the untrained policy is that reference. Its
            rewards are then rounding errors around 0, which would rank pairs at random; they are set to 0.
        imitates: The objective is of demonstrations.
        log_odds: The objective reads differences of rewards as log-odds (its link is logistic). Only then do the labels
            have a likelihood under the rewards.
        seed: Seed of the bootstrap.

    Raises:
        ConfigError: there are no rows, or the tables are not of the same rows.
    """
    if not before and not after:
        raise ConfigError(
            "no held-out rows to compare; hold some out (data.eval_fraction, data.eval)", code="empty", key="after"
        )
    if [row.id for row in before] != [row.id for row in after]:
        raise ConfigError(
            f"the {len(before)} rows before and the {len(after)} rows after training are not the same held-out rows "
            "in the same order; measure the same examples twice",
            code="other_rows",
        )
    if starts_at_reference:
        before = [replace(row, responses=tuple(replace(r, reward=0.0) for r in row.responses)) for row in before]
    num_examples, before, after = len(after), together(before), together(after)
    prompt = np.array([row.prompt for row in after])
    return HeldOut(
        num_examples=num_examples,
        num_prompts=len(set(prompt.tolist())),
        contrast=_contrast(before, after, prompt, rule, seed, log_odds),
        nll=_nll(before, after, prompt, seed) if imitates else None,
        starts_at_reference=starts_at_reference,
        shift=_shift(before, after, prompt, seed) if is_policy(after) else None,
        learner="policy" if is_policy(after) else "reward model",
        accuracy_by_prompt=accuracy_by_prompt(after),
        by_source=_by_source(before, after, rule, seed, imitates=imitates),
    )


def _by_source(
    before: Sequence[ExampleRow], after: Sequence[ExampleRow], rule: LengthRule, seed: int, *, imitates: bool
) -> dict[str, SourceChange]:
    """Return the numbers of the rows of each source, in alphabetical order."""
    names = sorted({row.source for row in after})
    if not 2 <= len(names) <= MAX_SOURCES:
        return {}
    found = {}
    for name in names:
        places = [e for e, row in enumerate(after) if row.source == name]
        early, late = ([rows[e] for e in places] for rows in (before, after))
        prompt = np.array([row.prompt for row in late])
        contrast = _contrast(early, late, prompt, rule, seed, log_odds=False)
        found[name or NO_SOURCE] = SourceChange(
            num_examples=len(late),
            num_prompts=len(set(prompt.tolist())),
            accuracy=None if contrast is None else contrast.accuracy,
            margin=None if contrast is None else contrast.margin,
            nll=_nll(early, late, prompt, seed) if imitates else None,
        )
    return found


def together(rows: Sequence[ExampleRow]) -> Sequence[ExampleRow]:
    """Merge unpaired rows of one prompt into one row, if most labels have an opposite label at the same prompt.

    The reward of a policy is known up to a constant per prompt, so responses are best compared within a prompt. They
    are compared across prompts only if most prompts have one kind of label.
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
    log_odds: bool,
) -> Contrast | None:
    if any(not comparison.is_tie for row in after for comparison in compared_responses(row)):
        return contrast_pairs(before, after, prompt, rule, seed, log_odds=log_odds)
    if len({label for row in after for label in row.labels}) == 2:
        return contrast_labels(before, after, prompt, rule, seed)
    return None


def _shift(before: Sequence[ExampleRow], after: Sequence[ExampleRow], prompt: NDArray[np.str_], seed: int) -> Interval:
    """Return the mean of |log π after − log π before| over prompts, nats per response."""
    numbers = np.unique(prompt, return_inverse=True)[1]
    sums = [np.array([logps_of(r) for row in rows for r in row.responses]) for rows in (before, after)]
    unit = np.repeat(numbers, [len(row.responses) for row in after])
    return bootstrap_mean(np.abs(sums[1] - sums[0]), unit, seed=seed)


def _nll(before: Sequence[ExampleRow], after: Sequence[ExampleRow], prompt: NDArray[np.str_], seed: int) -> Change:
    """Return the negative log-likelihood of the demonstrated responses, nats per token, weighted as in `sft`."""
    numbers = np.unique(prompt, return_inverse=True)[1]
    shown = [(e, k) for e, row in enumerate(after) for k in _demonstrated(row)]
    tokens = np.array([after[e].responses[k].num_tokens for e, k in shown], dtype=np.float64)
    unit = numbers[[e for e, _ in shown]]

    def nll(rows: Sequence[ExampleRow]) -> np.ndarray:
        return np.array([-logps_of(rows[e].responses[k]) for e, k in shown])

    early, late = (ratio_by_prompt(nll(rows), tokens, unit) for rows in (before, after))
    return Change.of(early, late, int(numbers.max()) + 1, seed=seed)


def _demonstrated(row: ExampleRow) -> Sequence[int]:
    """Return the indices of the demonstrated responses: the chosen ones, or all where there is no comparison."""
    return sorted({c.chosen for c in row.comparisons}) or range(len(row.responses))
