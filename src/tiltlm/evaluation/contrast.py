"""Accuracy of ranking better responses above worse ones, before and after training, with intervals over prompts.

Comparisons are within one prompt. The better response of a comparison is the one that its label prefers; a label that
prefers neither (a tie) gives no better response, and counts in the label loss only. Unpaired responses have different
prompts; their accuracy is the chance that a desirable response has a higher reward than an undesirable one. Guessing at
random scores ½, and a tie counts ½. A rule that sees only the lengths is measured beside the policy, because a policy
may have learned only that.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tiltlm.core import Comparison, Example
from tiltlm.diagnostics import (
    Displacement,
    Interval,
    LengthRule,
    PairLogps,
    bootstrap,
    expected_agreement,
    measure_displacement,
    measure_length_bias,
)
from tiltlm.evaluation.change import (
    SORTED_RESAMPLES,
    Change,
    IndexStatistic,
    area_by_prompt,
    mean_by_prompt,
    ratio_by_prompt,
)
from tiltlm.evaluation.example_rows import ExampleRow, ResponseRow

Floats = NDArray[np.float64]
ExampleRows = Sequence[ExampleRow]
Prompts = NDArray[np.str_]
ResponseValue = Callable[[ResponseRow], float]

SIDES = {"pairs": ("chosen", "rejected"), "unpaired": ("desirable", "undesirable")}
"""Names of the better and the worse responses, by the kind of contrast."""


@dataclass(frozen=True)
class Contrast:
    """Better responses against worse ones: chosen against rejected, or desirable against undesirable."""

    kind: Literal["pairs", "unpaired"]
    num_comparisons: int
    """Number of comparisons; of unpaired responses the number of desirable times that of undesirable ones."""
    num_label_ties: int
    """Comparisons whose label prefers neither response. They are not in `num_comparisons`."""
    accuracy: Change
    """Share of comparisons in which the better response has the higher reward. With a soft label p ≥ ½ the expected
    agreement with the label: p if it has, 1 − p if not."""
    label_loss: Change | None
    """−log-likelihood of the labels under Bradley–Terry, nats per comparison: −p·log σ(m) − (1 − p)·log σ(−m), m the
    margin, ties included; log 2 ≈ 0.693 where all rewards are equal. None if the objective does not read its rewards as
    log-odds (its link is not logistic), and for unpaired responses, whose rewards are of different prompts."""
    margin: Change
    """Mean reward of the better responses minus that of the worse ones, in units of the reward."""
    ties: float
    """Share of comparisons with equal rewards after training. A tie counts ½."""
    better: Change | None
    """Log-probability of the better responses, nats per token. None for a reward model, like all numbers of
    likelihood below."""
    worse: Change | None
    """Log-probability of the worse responses, nats per token."""
    seq_accuracy: Change | None
    """Share of comparisons in which the better response has the higher S(y), without a reference. None for unpaired
    responses, whose likelihoods are of different prompts."""
    mean_accuracy: Change | None
    """The same by A(y), the log-probability per token."""
    displacement: Displacement | None
    """Shifts of both sides, nats per response. None for unpaired responses."""
    length_rule: Literal["longer", "shorter"]
    """The response that the length rule picks, as fitted on the training data."""
    length_accuracy: Interval
    """Share of comparisons in which the length rule is right."""
    length_advantage: Interval
    """Accuracy after training − accuracy of the length rule, on the same prompts."""

    @property
    def sides(self) -> tuple[str, str]:
        """Names of the better and the worse responses."""
        return SIDES[self.kind]

    @property
    def is_displaced(self) -> bool:
        """True if the better responses became less likely and the whole interval says so."""
        return self.better is not None and self.better.difference.high < 0


def is_policy(rows: ExampleRows) -> bool:
    """Return whether the rows were measured under a policy. A reward model has rewards and no log-probabilities."""
    return all(response.logps is not None for row in rows for response in row.responses)


def compared_responses(row: ExampleRow) -> tuple[Comparison, ...]:
    """Return the comparisons of a row, better response first; without any, each desirable over each undesirable one."""
    if row.comparisons or len(set(row.labels)) < 2:
        return tuple(comparison.oriented for comparison in row.comparisons)
    good = [k for k, label in enumerate(row.labels) if label]
    bad = [k for k, label in enumerate(row.labels) if not label]
    return tuple(Comparison(i, j) for i, j in product(good, bad))


def fit_length_rule(examples: Sequence[Example]) -> LengthRule:
    """Fit the length rule on training data: it prefers longer or shorter responses, whichever is right more often."""
    pairs = [(e, c) for e, example in enumerate(examples) for c in example.comparisons if not c.is_tie]
    if pairs:
        chosen, rejected = ([examples[e].responses[k].num_tokens for e, k in side] for side in _ends(pairs))
        return LengthRule.fit(chosen, rejected, [e for e, _ in pairs])
    lengths: dict[bool, list[int]] = {True: [], False: []}
    for example in examples:
        for response, label in zip(example.responses, example.labels, strict=bool(example.labels)):
            lengths[label].append(response.num_tokens)
    longer = not all(lengths.values()) or np.mean(lengths[True]) >= np.mean(lengths[False])
    return LengthRule("longer" if longer else "shorter")


def _ends(pairs: Sequence[tuple[int, Comparison]]) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return (row, response) of the better side and of the worse side of each comparison."""
    return [(e, c.chosen) for e, c in pairs], [(e, c.rejected) for e, c in pairs]


def contrast_pairs(
    before: ExampleRows, after: ExampleRows, prompt: Prompts, rule: LengthRule, seed: int, *, log_odds: bool = True
) -> Contrast:
    """Return the contrast of all comparisons within the rows. The comparisons of one prompt share one vote.

    Args:
        before: The rows under the untrained policy.
        after: The same rows under the trained one.
        prompt: [E] the prompt of each row. Intervals are over prompts.
        rule: The length rule, fitted on training data.
        seed: Seed of the bootstrap.
        log_odds: The rewards are log-odds, so that the labels have a likelihood.
    """
    labelled = [(e, c) for e, row in enumerate(after) for c in compared_responses(row)]
    pairs = [(e, c) for e, c in labelled if not c.is_tie]
    better, worse = _ends(pairs)
    unit = _numbered(prompt[[e for e, _ in pairs]])
    num_prompts = int(unit.max()) + 1
    preference = np.array([c.preference for _, c in pairs])

    def sides(rows: ExampleRows, value: ResponseValue) -> tuple[Floats, Floats]:
        chosen, rejected = ([value(rows[e].responses[k]) for e, k in side] for side in (better, worse))
        return np.array(chosen, dtype=np.float64), np.array(rejected, dtype=np.float64)

    def agreement(rows: ExampleRows, value: ResponseValue) -> IndexStatistic:
        return mean_by_prompt(expected_agreement(np.subtract(*sides(rows, value)), preference), unit)

    def change(statistic: Callable[[ExampleRows], IndexStatistic]) -> Change:
        return Change.of(statistic(before), statistic(after), num_prompts, seed=seed)

    def likelihood(statistic: Callable[[ExampleRows], IndexStatistic]) -> Change | None:
        return change(statistic) if is_policy(after) else None

    def pair_logps(rows: ExampleRows) -> PairLogps:
        return PairLogps(*sides(rows, logps_of), unit=unit)

    rewards = sides(after, _reward)
    lengths = sides(after, _num_tokens)
    length = measure_length_bias(rule, *lengths, np.subtract(*rewards), unit, preference, seed=seed)
    return Contrast(
        kind="pairs",
        num_comparisons=len(pairs),
        num_label_ties=len(labelled) - len(pairs),
        accuracy=change(lambda rows: agreement(rows, _reward)),
        label_loss=_label_loss(before, after, labelled, prompt, seed) if log_odds else None,
        margin=change(lambda rows: mean_by_prompt(np.subtract(*sides(rows, _reward)), unit)),
        ties=float(np.mean(rewards[0] == rewards[1])),
        better=likelihood(lambda rows: mean_by_prompt(sides(rows, mean_logps_of)[0], unit)),
        worse=likelihood(lambda rows: mean_by_prompt(sides(rows, mean_logps_of)[1], unit)),
        seq_accuracy=likelihood(lambda rows: agreement(rows, logps_of)),
        mean_accuracy=likelihood(lambda rows: agreement(rows, mean_logps_of)),
        displacement=measure_displacement(pair_logps(before), pair_logps(after), seed=seed)
        if is_policy(after)
        else None,
        length_rule=rule.prefers,
        length_accuracy=length.rule_accuracy,
        length_advantage=length.advantage,
    )


def accuracy_by_prompt(rows: ExampleRows) -> dict[str, float]:
    """Return the mean expected agreement of rewards and labels at each prompt, ties left out; empty without pairs."""
    agreements: dict[str, list[float]] = {}
    for row in rows:
        for c in compared_responses(row):
            if not c.is_tie:
                margin = row.responses[c.chosen].reward - row.responses[c.rejected].reward
                agreements.setdefault(row.prompt, []).append(float(expected_agreement(margin, c.preference)))
    return {prompt: sum(values) / len(values) for prompt, values in agreements.items()}


def _label_loss(
    before: ExampleRows, after: ExampleRows, labelled: Sequence[tuple[int, Comparison]], prompt: Prompts, seed: int
) -> Change:
    """Return the label loss of all comparisons, ties included."""
    unit = _numbered(prompt[[e for e, _ in labelled]])
    preference = np.array([c.preference for _, c in labelled])

    def loss(rows: ExampleRows) -> IndexStatistic:
        rewards = [[response.reward for response in row.responses] for row in rows]
        margin = np.array([rewards[e][c.chosen] - rewards[e][c.rejected] for e, c in labelled])
        losses = preference * np.logaddexp(0, -margin) + (1 - preference) * np.logaddexp(0, margin)
        return mean_by_prompt(losses, unit)

    return Change.of(loss(before), loss(after), int(unit.max()) + 1, seed=seed)


def contrast_labels(before: ExampleRows, after: ExampleRows, prompt: Prompts, rule: LengthRule, seed: int) -> Contrast:
    """Return the contrast of desirable against undesirable responses of all prompts.

    The arguments are those of `contrast_pairs`. Labels of different prompts have no label loss.
    """
    members = [(e, k) for e, row in enumerate(after) for k in range(len(row.labels))]
    desirable = np.array([after[e].labels[k] for e, k in members])
    unit = _numbered(prompt[[e for e, _ in members]])
    num_prompts = int(unit.max()) + 1

    def values(rows: ExampleRows, value: ResponseValue) -> Floats:
        return np.array([value(rows[e].responses[k]) for e, k in members], dtype=np.float64)

    def area(rows: ExampleRows, value: ResponseValue) -> IndexStatistic:
        return area_by_prompt(values(rows, value), desirable, unit)

    def mean_of(rows: ExampleRows, value: ResponseValue, side: bool) -> IndexStatistic:
        is_side = (desirable == side).astype(np.float64)
        return ratio_by_prompt(values(rows, value) * is_side, is_side, unit)

    def margin(rows: ExampleRows) -> IndexStatistic:
        good, bad = mean_of(rows, _reward, True), mean_of(rows, _reward, False)
        return lambda draw: good(draw) - bad(draw)

    def change(statistic: Callable[[ExampleRows], IndexStatistic], resamples: int = SORTED_RESAMPLES) -> Change:
        return Change.of(statistic(before), statistic(after), num_prompts, seed=seed, resamples=resamples)

    def interval(statistic: IndexStatistic) -> Interval:
        return bootstrap(statistic, num_prompts, seed=seed, resamples=SORTED_RESAMPLES)

    rewards, longer = values(after, _reward), 1 if rule.prefers == "longer" else -1
    by_reward = area(after, _reward)
    by_length = area_by_prompt(longer * values(after, _num_tokens), desirable, unit)
    good, bad = np.sort(rewards[desirable]), np.sort(rewards[~desirable])
    equal = np.searchsorted(bad, good, "right") - np.searchsorted(bad, good, "left")
    return Contrast(
        kind="unpaired",
        num_comparisons=len(good) * len(bad),
        num_label_ties=0,
        label_loss=None,
        accuracy=change(lambda rows: area(rows, _reward)),
        margin=change(margin),
        ties=float(equal.sum() / (len(good) * len(bad))),
        better=change(lambda rows: mean_of(rows, mean_logps_of, True)) if is_policy(after) else None,
        worse=change(lambda rows: mean_of(rows, mean_logps_of, False)) if is_policy(after) else None,
        seq_accuracy=None,
        mean_accuracy=None,
        displacement=None,
        length_rule=rule.prefers,
        length_accuracy=interval(by_length),
        length_advantage=interval(lambda draw: by_reward(draw) - by_length(draw)),
    )


def _numbered(prompts: Prompts) -> NDArray[np.intp]:
    """Return each prompt as a number from 0 on, without gaps."""
    return np.unique(prompts, return_inverse=True)[1]


def _reward(row: ResponseRow) -> float:
    return row.reward


def logps_of(row: ResponseRow) -> float:
    """Return S(y) under a policy, nats."""
    assert row.logps is not None, "a reward model has no log-probabilities"
    return row.logps


def mean_logps_of(row: ResponseRow) -> float:
    """Return A(y) under a policy, nats per token."""
    assert row.mean_logps is not None, "a reward model has no log-probabilities"
    return row.mean_logps


def _num_tokens(row: ResponseRow) -> float:
    return row.num_tokens
