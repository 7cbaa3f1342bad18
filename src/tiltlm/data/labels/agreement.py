"""How far annotators agree: with each other, with the majority of the others, and with themselves.

All agreement is nominal: two votes are equal or they are not. The unit of every interval is the item, since the votes
on one item are dependent. An item with a single vote says nothing about agreement, and is never counted as agreed.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tiltlm.core.notes import Note
from tiltlm.data.labels.rules import majority
from tiltlm.data.labels.votes import TIE, A, Ints, Votes
from tiltlm.estimates.intervals import Floats, Interval, bootstrap, rate, wilson

RESAMPLES = 2000
ONE_SIDED = 0.7
"""Share of decided votes for the answer that is listed first (or second) from which α is lowered by the listing."""
FEW_ITEMS = 100
"""Items with several votes below which the interval of α is about ±0.13 or wider, with three annotators."""


@dataclass(frozen=True)
class AnnotatorAgreement:
    """One annotator."""

    annotator: str
    num_votes: int
    others: Interval | None
    """Share of the items on which the annotator says what most of the others say. Items without a majority of the
    others do not count. None: there are no others."""
    ties: float
    """Share of the votes that prefer neither answer."""
    left: Interval | None
    """Share of the decided votes that prefer the answer on the left; None if sides are not known."""
    left_p: float | None
    """Two-sided p-value of the binomial test of ½."""
    consistency: Interval | None
    """Share of repeated votes on an item that are equal to the vote before; None if nothing was repeated."""
    alpha_without: float | None
    """Krippendorff's α of all others; None if it is undefined."""
    labels_changed: int
    """Items whose majority label changes without this annotator."""


@dataclass(frozen=True)
class Agreement:
    """All annotators together."""

    num_items: int
    """Items with at least one vote."""
    num_votes: int
    num_shared: int
    """Items with votes of at least two annotators."""
    num_skips: int
    num_both_bad: int
    per_item: dict[int, int]
    """Number of votes → how many items have so many."""
    raw: Interval | None
    """Share of pairs of votes on an item that are equal, mean over items; None if no item has two votes."""
    alpha: Interval | None
    """Krippendorff's α; None if it is undefined, and `notes` says why."""
    kappa: Interval | None
    """Cohen's κ if there are exactly two annotators; None if there are not, or if it is undefined."""
    majority: float | None
    """Share of the items with at least two votes that have a majority for one answer or for a tie."""
    left: Interval | None
    left_p: float | None
    consistency: Interval | None
    annotators: tuple[AnnotatorAgreement, ...]
    notes: tuple[Note, ...]


def alpha_of(counts: Floats) -> Floats:
    """Return Krippendorff's α for nominal data from sums over items.

    α = 1 − D_o / D_e. With n_uk votes for class k on item u, m_u = Σ_k n_uk ≥ 2, n_k = Σ_u n_uk and n = Σ_k n_k,
    D_o = Σ_u Σ_k n_uk (m_u − n_uk) / (m_u − 1) / n and D_e = (n² − Σ_k n_k²) / (n (n − 1)).

    Args:
        counts: [..., K + 1] n_k of every class, then Σ_u Σ_k n_uk (m_u − n_uk) / (m_u − 1).

    Returns:
        [...] α; NaN where only one class was voted for, since then D_e is 0.

    Source: Krippendorff 2011, Computing Krippendorff's alpha-reliability, section C.
    """
    of_class, different = counts[..., :-1], counts[..., -1]
    n = of_class.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = 1 - (n - 1) * different / (n * n - (of_class**2).sum(-1))
    return np.where((of_class > 0).sum(-1) > 1, found, np.nan)


def alpha_facts(counts: Floats) -> Floats:
    """Return the summands of `alpha_of`, one row per item with at least two votes.

    Args:
        counts: [items, K] number of votes for each class.
    """
    shared = counts[counts.sum(1) >= 2]
    num = shared.sum(1, keepdims=True)
    different = (shared * (num - shared)).sum(1, keepdims=True) / np.maximum(num - 1, 1)
    return np.concatenate([shared, different], axis=1)


def krippendorff(counts: Floats, *, seed: int = 0, resamples: int = RESAMPLES) -> Interval | None:
    """Return Krippendorff's α for nominal data, with a bootstrap interval over items; None where it is undefined.

    Args:
        counts: [items, K] number of votes for each class. Items with fewer than two votes do not count.
        seed: Seed of the bootstrap.
        resamples: Number of draws.
    """
    facts = alpha_facts(counts)
    if np.isnan(alpha_of(facts.sum(0))):
        return None
    return bootstrap(lambda draw: alpha_of(facts[draw].sum(1)), len(facts), seed=seed, resamples=resamples)


def cohen(first: Ints, second: Ints, *, seed: int = 0, resamples: int = RESAMPLES) -> Interval | None:
    """Return Cohen's κ of two annotators, with a bootstrap interval over items; None where it is undefined.

    κ = (p_o − p_e) / (1 − p_e), p_o the share of equal votes, p_e the chance of equal votes for annotators that vote
    independently, each as often for every class as found.

    Args:
        first: [n] votes of one annotator on the items that both voted on.
        second: [n] votes of the other one.
        seed: Seed of the bootstrap.
        resamples: Number of draws.

    Source: Cohen 1960, Educ. Psychol. Meas. 20:37.
    """
    if not first.size:
        return None
    one_hot = np.eye(3)
    facts = np.concatenate([one_hot[first], one_hot[second], (first == second)[:, None].astype(np.float64)], axis=1)

    def kappa(draw: NDArray[np.intp]) -> Floats:
        means = facts[draw].mean(1)
        chance = (means[:, :3] * means[:, 3:6]).sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(chance < 1 - 1e-12, (means[:, 6] - chance) / (1 - chance), np.nan)

    found = bootstrap(kappa, len(facts), seed=seed, resamples=resamples)
    return None if np.isnan(found.estimate) else found


def measure_agreement(votes: Votes, *, seed: int = 0, resamples: int = RESAMPLES) -> Agreement:
    """Measure how far annotators agree.

    Args:
        votes: Votes on items.
        seed: Seed of the bootstrap.
        resamples: Number of draws.
    """
    counts = votes.counts()
    num = counts.sum(1)
    shared = counts[num >= 2]
    agreed = (shared * (shared - 1)).sum(1) / np.maximum(shared.sum(1) * (shared.sum(1) - 1), 1)
    alpha = krippendorff(counts, seed=seed, resamples=resamples)
    with_votes = np.flatnonzero(np.bincount(votes.annotator, minlength=len(votes.annotators)))
    left, left_p = left_rate(votes, np.ones(len(votes.choice), dtype=bool))
    majorities = [sum(row == row.max()) == 1 for row in shared]
    return Agreement(
        num_items=int((num > 0).sum()),
        num_votes=len(votes.choice),
        num_shared=len(shared),
        num_skips=votes.num_skips,
        num_both_bad=int(votes.is_bad.sum()),
        per_item={int(k): int(n) for k, n in zip(*np.unique(num[num > 0], return_counts=True), strict=True)},
        raw=rate(agreed, seed=seed, resamples=resamples),
        alpha=alpha,
        kappa=_kappa(votes, with_votes, seed, resamples),
        majority=float(np.mean(majorities)) if majorities else None,
        left=left,
        left_p=left_p,
        consistency=rate(
            [float(repeat.is_equal) for repeat in votes.repeats],
            [repeat.item for repeat in votes.repeats],
            seed=seed,
            resamples=resamples,
        ),
        annotators=tuple(_one(votes, int(j), counts, majority(votes)) for j in with_votes),
        notes=tuple(_notes(votes, shared, alpha)),
    )


def _kappa(votes: Votes, annotators: NDArray[np.intp], seed: int, resamples: int) -> Interval | None:
    """Return Cohen's κ if there are exactly two annotators."""
    if len(annotators) != 2:
        return None
    table = np.full((len(votes.items), 2), -1)
    for column, j in enumerate(annotators):
        own = votes.annotator == j
        table[votes.item[own], column] = votes.choice[own]
    both = table[(table >= 0).all(1)]
    return cohen(both[:, 0], both[:, 1], seed=seed, resamples=resamples)


def _one(votes: Votes, j: int, counts: Floats, before: Floats) -> AnnotatorAgreement:
    """Return the numbers of one annotator; `before` are the majority labels of all."""
    own = votes.annotator == j
    items, choice = votes.item[own], votes.choice[own]
    rest = counts.copy()
    rest[items, choice] -= 1
    others = rest[items]
    most = others.max(1, initial=0)
    decided = ((others == most[:, None]).sum(1) == 1) & (most > 0)
    equal = others[np.arange(len(items)), choice] == most
    left, left_p = left_rate(votes, own)
    repeats = [float(repeat.is_equal) for repeat in votes.repeats if repeat.annotator == j]
    without = float(alpha_of(alpha_facts(rest).sum(0)))
    after = majority(votes.without(j))
    return AnnotatorAgreement(
        annotator=votes.annotators[j],
        num_votes=int(own.sum()),
        others=wilson(float(equal[decided].sum()), int(decided.sum())) if decided.any() else None,
        ties=float(np.mean(choice == TIE)),
        left=left,
        left_p=left_p,
        consistency=wilson(sum(repeats), len(repeats)) if repeats else None,
        alpha_without=None if np.isnan(without) else without,
        labels_changed=int(np.sum((before != after) & ~np.isnan(before) & ~np.isnan(after))),
    )


def left_rate(votes: Votes, which: NDArray[np.bool_]) -> tuple[Interval | None, float | None]:
    """Return the share of decided votes for the answer on the left, and the p-value of a binomial test of ½.

    Args:
        votes: Votes on items.
        which: [V] the votes to look at.
    """
    used = which & (votes.left >= 0) & (votes.choice != TIE)
    num = int(used.sum())
    if num == 0:
        return None, None
    from scipy.stats import binomtest

    on_left = int((votes.choice[used] == votes.left[used]).sum())
    return wilson(on_left, num), float(binomtest(on_left, num).pvalue)


def _notes(votes: Votes, shared: Floats, alpha: Interval | None) -> Iterator[Note]:
    """Yield what a reader of the numbers must know."""
    num_single = int((votes.counts().sum(1) == 1).sum())
    if num_single:
        yield Note(f"{num_single} items have a single vote: they say nothing about agreement", "single_votes")
    if not len(shared):
        yield Note("no item has votes of two annotators, so agreement cannot be measured", "no_shared_items")
        return
    if alpha is None:
        text = "α is undefined, because all votes on shared items are equal: chance alone would agree as well"
        yield Note(text, "alpha_unanimous")
    elif len(shared) < FEW_ITEMS:
        yield Note(f"only {len(shared)} items have several votes, so the interval of α is wide", "few_items")
    decided = votes.choice[votes.choice != TIE]
    first = float(np.mean(decided == A)) if decided.size else 0.5
    if max(first, 1 - first) >= ONE_SIDED:
        text = (
            f"the answer that is listed {'first' if first > 0.5 else 'second'} gets {max(first, 1 - first):.0%} of the "
            "decided votes. If the file lists the better answer there on purpose, α and κ are too low: list the two "
            "answers in random order"
        )
        yield Note(text, "one_sided_listing")
    if (votes.left >= 0).any() and not votes.sides_vary:
        text = (
            "the answer on the left is always the one that the file lists "
            f"{'first' if A in votes.left else 'second'}, so a preference for the left side cannot be told from one "
            "for the answer"
        )
        yield Note(text, "constant_sides")
