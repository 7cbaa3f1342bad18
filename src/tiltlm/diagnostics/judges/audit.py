"""All numbers of an audit: a judge against pairs that people have labelled."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tiltlm.core.notes import Note
from tiltlm.diagnostics.judges.agreement import auc, decision, kappa
from tiltlm.diagnostics.judges.calibration import Calibration, calibrate
from tiltlm.estimates.intervals import RESAMPLES, Floats, Interval, paired_difference, rate

MIN_PAIRS = 200
"""Pairs below which an audit says little: the interval of κ is about ±0.12 at 75 % agreement."""
MIN_LENGTH_GAP = 30
"""Characters by which one response must be longer to count as longer."""
LIST_ITEM = re.compile(r"^[ \t]{0,8}(?:[-*•]|\d{1,3}[.)])[ \t]+\S", re.MULTILINE)
LOGIT_LIMIT = 1e-6


@dataclass(frozen=True, eq=False)
class AuditedPairs:
    """Labelled pairs and what a judge said; n pairs with a judgement."""

    labels: Floats
    """[n] P(a better) by people."""
    p: Floats
    """[n] P(a better) by the judge, ½ where its two orders contradict each other."""
    gaps: Floats
    """[n] logit of p, or for a judge that scores the difference of the scores."""
    first: Floats | None
    """[n, 2] P(first one shown is better) in both orders; None for a judge that scores, and so shows no order."""
    lengths: Floats
    """[n, 2] characters of a and b."""
    has_list: Floats
    """[n, 2] 1 where the response has a list."""
    prompts: Sequence[Any]
    """[n] names of the prompts. Pairs of one prompt depend on one another."""


@dataclass(frozen=True)
class Canaries:
    """What a request for a good verdict inside the worse response does."""

    plain: Interval
    """P(worse response wins) as it is."""
    attacked: Interval
    """The same with the request at its end."""
    change: Interval


@dataclass(frozen=True)
class JudgeAudit:
    """A judge, measured."""

    judge: str
    digest: str
    num_pairs: int
    """Pairs with a judgement."""
    counts: dict[str, int]
    """Status of the judgements → pairs."""
    accuracy: Interval
    """Share of decided labels that the judge agrees with, its ties counted ½."""
    kappa: Interval
    auc: Interval
    calibration: Calibration
    flips: Interval | None
    """Share of pairs whose better response changes with the order."""
    first_slot: Interval | None
    """P(first one shown is better), over both orders; ½ without a preference for a position."""
    longer: Interval | None
    """P(longer response is better), by the judge, where one is longer by more than `MIN_LENGTH_GAP` characters."""
    longer_labels: Interval | None
    """The same by people."""
    lists: Interval | None
    """P(response with a list is better), where exactly one has a list."""
    lists_labels: Interval | None
    canaries: Canaries | None = None
    retest: Interval | None = None
    """Share of pairs whose better response changes when the judge is asked again; None if it cannot change."""
    retest_noise: Interval | None = None
    """Mean |p − p'| of the two askings."""
    notes: tuple[Note, ...] = field(default=())


def measure_audit(
    pairs: AuditedPairs, judge: str, digest: str, counts: dict[str, int], *, are_logits: bool, seed: int = 0
) -> JudgeAudit:
    """Measure agreement, biases and calibration of a judge.

    Args:
        pairs: Labels and judgements.
        judge: Name of the judge.
        digest: Its digest.
        counts: Status → pairs, failures included.
        are_logits: True if the gaps are logits of the judge's own probabilities.
        seed: Seed of all bootstraps.
    """
    right, found = decision(pairs.labels), decision(pairs.p)
    decided = right != 0.5
    correct = np.where(found == 0.5, 0.5, (found == right).astype(np.float64))[decided]
    accuracy = rate(correct, np.asarray(pairs.prompts)[decided], seed=seed)
    assert accuracy is not None, "checked by the caller: some label is decided"
    calibration = calibrate(pairs.gaps, pairs.labels, pairs.prompts, are_logits=are_logits, seed=seed)
    first = pairs.first
    length_gap = pairs.lengths[:, 0] - pairs.lengths[:, 1]
    list_gap = pairs.has_list[:, 0] - pairs.has_list[:, 1]
    longer = _preferences(pairs, np.where(np.abs(length_gap) > MIN_LENGTH_GAP, np.sign(length_gap), 0), seed)
    listed = _preferences(pairs, np.sign(list_gap), seed)
    return JudgeAudit(
        judge=judge,
        digest=digest,
        num_pairs=len(pairs.p),
        counts=counts,
        accuracy=accuracy,
        kappa=kappa(pairs.p, pairs.labels, pairs.prompts, seed=seed),
        auc=auc(pairs.p, decision(pairs.labels), pairs.prompts, seed=seed),
        calibration=calibration,
        flips=None if first is None else rate(flipped(first), pairs.prompts, seed=seed),
        first_slot=None if first is None else rate(decision(first).mean(1), pairs.prompts, seed=seed),
        longer=longer[0],
        longer_labels=longer[1],
        lists=listed[0],
        lists_labels=listed[1],
        notes=tuple(_notes(len(pairs.p), counts, accuracy, calibration)),
    )


def flipped(first: Floats) -> Floats:
    """Return 1 where the same position wins in both orders, and so another response each time; else 0."""
    votes = decision(first)
    return np.asarray((votes[:, 0] == votes[:, 1]) & (votes[:, 0] != 0.5), dtype=np.float64)


def has_list(text: str) -> bool:
    """Return whether a text has at least two lines that open like items of a list."""
    return len(LIST_ITEM.findall(text)) >= 2


def _preferences(pairs: AuditedPairs, side: Floats, seed: int) -> tuple[Interval | None, Interval | None]:
    """Return how often judge and people prefer the response that `side` points to: 1 for a, −1 for b, 0 for none."""
    counts = side != 0
    units = np.asarray(pairs.prompts)[counts]

    def towards(p: Floats) -> Floats:
        return np.asarray(np.where(side > 0, decision(p), 1 - decision(p))[counts])

    return rate(towards(pairs.p), units, seed=seed), rate(towards(pairs.labels), units, seed=seed)


def measure_canaries(
    plain: Floats, attacked: Floats, prompts: Sequence[Any], *, seed: int = 0, resamples: int = RESAMPLES
) -> Canaries | None:
    """Return what attacks change.

    Args:
        plain: [n] P(worse response wins) as it is.
        attacked: [n] the same with the attack.
        prompts: [n] names of the prompts.
        seed: Seed of the bootstraps.
        resamples: Number of draws of each.
    """
    before, after = (rate(wins, prompts, seed=seed, resamples=resamples) for wins in (plain, attacked))
    if before is None or after is None:
        return None
    return Canaries(before, after, paired_difference(attacked, plain, prompts, seed=seed, resamples=resamples))


def _notes(n: int, counts: dict[str, int], accuracy: Interval, calibration: Calibration) -> list[Note]:
    notes = []
    if n < MIN_PAIRS:
        notes.append(
            Note(f"{n} pairs are few: an audit should have at least {MIN_PAIRS} labelled pairs", code="few_pairs")
        )
    total = sum(counts.values())
    if counts.get("error", 0) > 0.05 * total:
        notes.append(Note(f"{counts['error']} of {total} judgements failed; mend the judge first", code="many_errors"))
    if not accuracy.low > 0.5:
        notes.append(Note("the judge cannot be told from a coin flip on these pairs", code="coin_flip"))
    if calibration.scale is None:
        notes.append(
            Note(
                "no scale could be fitted: the judge contradicts no label, or is not better than chance; more or "
                "harder pairs help",
                code="no_scale",
            )
        )
    return notes
