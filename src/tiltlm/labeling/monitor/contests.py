"""The comparison that labels serve: which of two systems people prefer.

The unit is the prompt. The value of a pair is the share of its votes for the first system, a tie counting ½; an
adjudication counts in place of the votes. The value of a prompt is the mean over its pairs. Sides are random for each
person and pair, so a preference for a side has no direction here.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tiltlm.data.labels.votes import TIE, A, B, Votes
from tiltlm.estimates.intervals import Interval, wilson
from tiltlm.labeling.monitor.facts import Facts, Floats, Ints, PairFact

FEW = 20
"""Prompts below which the interval of the win rate is Wilson's, which is wider than need be, but holds."""


@dataclass(frozen=True, eq=False)
class Contest:
    """Pairs whose first response is of one system, and the second of the other one."""

    systems: tuple[str, str]
    keys: tuple[str, ...]
    """[P] keys of the pairs."""
    is_mirrored: NDArray[np.bool_]
    """[P] True where the second response of the pair is the first system's."""
    is_counted: NDArray[np.bool_]
    """[P] False for pairs that are to be labelled, and whose votes would bias the sample now."""
    prompt: Ints
    """[P] number of the prompt of each pair, ascending."""
    counts: Floats
    """[P, 3] votes for the first system, for the second one, for neither."""
    first: Floats
    """[P, 3] the first `overlap` of these votes, of which disagreement asked for none."""
    wanted: Ints
    """[P] votes that each pair shall get."""
    decided: Floats
    """[P] value by adjudication: 1, 0 or ½; NaN where there is none."""
    is_slice: bool = False
    """True if these are only the pairs of the random slice."""

    @property
    def num_prompts(self) -> int:
        """Prompts of all pairs, with votes or without."""
        return len(np.unique(self.prompt))

    @property
    def values(self) -> Floats:
        """[P] value of each pair now; NaN without votes and adjudication."""
        return pair_values(self.counts, self.decided)

    def prompt_values(self) -> Floats:
        """Return the values of the prompts that have any."""
        values = self.values
        known = ~np.isnan(values)
        if not known.any():
            return np.zeros(0)
        numbers = np.unique(self.prompt[known], return_inverse=True)[1]
        return np.asarray(np.bincount(numbers, values[known]) / np.bincount(numbers))


def pair_values(counts: Floats, decided: Floats) -> Floats:
    """Return [..., P] the share of votes for the first of two, ties counting ½, or the adjudication.

    Args:
        counts: [..., P, 3] votes.
        decided: [P] value by adjudication, or NaN.
    """
    with np.errstate(invalid="ignore"):
        values = (counts[..., A] + counts[..., TIE] / 2) / counts.sum(-1)
    return np.where(np.isnan(decided), values, decided)


def find_contests(facts: Facts) -> list[Contest]:
    """Return a contest for each two systems whose responses were compared, those with most pairs first.

    Where pairs are not labelled in random order, those labelled so far are no fair sample. Then a contest has only the
    random slice, and of it only votes on pairs before the first one, in random order, that nobody has seen. When every
    pair was seen, it has all of them.
    """
    named = [one for one in facts.tasks if all(one.models) and one.models[0] != one.models[1]]
    groups: dict[tuple[str, str], list[PairFact]] = {}
    for one in named:
        groups.setdefault((min(one.models), max(one.models)), []).append(one)
    seen = {vote.pair for vote in facts.votes} | {one.id for one in named if one.decided}
    return [
        _contest(facts, systems, *_fair(facts, pairs, seen))
        for systems, pairs in sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
    ]


def labels_as_contest(facts: Facts) -> Contest:
    """Return all tasks as one contest of the first response against the second one, whoever wrote them."""
    return _contest(facts, None, list(facts.tasks), None)


def without(contest: Contest, facts: Facts, annotator: str) -> Contest:
    """Return a contest without the votes of one annotator. Adjudications stay."""
    votes = facts.task_votes
    rest = votes.without(votes.annotators.index(annotator)) if annotator in votes.annotators else votes
    return replace(contest, counts=_counts(contest.keys, contest.is_mirrored, contest.is_counted, rest))


def _fair(facts: Facts, pairs: list[PairFact], seen: set[int]) -> tuple[list[PairFact], set[int] | None]:
    """Return the pairs of a fair sample, and which of them count so far; None: all count, and no pair is left out."""
    if facts.settings.select == "random" or all(one.id in seen for one in pairs):
        return pairs, None
    in_order = sorted((one for one in pairs if one.is_random), key=lambda one: (one.place, one.id))
    reached = next((k for k, one in enumerate(in_order) if one.id not in seen), len(in_order))
    return in_order, {one.id for one in in_order[:reached]}


def _contest(
    facts: Facts, systems: tuple[str, str] | None, pairs: list[PairFact], counting: set[int] | None
) -> Contest:
    """Return a contest of these pairs; those that are not among `counting` are as if nobody had seen them."""
    pairs = sorted(pairs, key=lambda one: (one.prompt, one.id))
    is_mirrored = np.array([systems is not None and one.models[0] != systems[0] for one in pairs], dtype=np.bool_)
    counts = np.array([counting is None or one.id in counting for one in pairs], dtype=np.bool_)
    worth = {None: np.nan, "a": 1.0, "b": 0.0, "tie": 0.5}
    decided = np.array([worth[one.decided] for one in pairs], dtype=np.float64)
    keys = tuple(one.key for one in pairs)
    return Contest(
        systems=systems or ("the first response", "the second response"),
        keys=keys,
        is_mirrored=is_mirrored,
        is_counted=counts,
        prompt=np.unique([one.prompt for one in pairs], return_inverse=True)[1].astype(np.int64),
        counts=_counts(keys, is_mirrored, counts, facts.task_votes),
        first=_counts(keys, is_mirrored, counts, facts.first_votes),
        wanted=np.array([one.wanted for one in pairs], dtype=np.int64),
        decided=np.where(counts, np.where(is_mirrored, 1 - decided, decided), np.nan),
        is_slice=counting is not None,
    )


def _counts(
    keys: tuple[str, ...], is_mirrored: NDArray[np.bool_], is_counted: NDArray[np.bool_], votes: Votes
) -> Floats:
    """Return [P, 3] the votes on pairs for the first system, for the second one, for neither."""
    place = {item.id: k for k, item in enumerate(votes.items)}
    counts = votes.counts()[np.array([place[key] for key in keys], dtype=np.int64)]
    return np.where(is_mirrored[:, None], counts[:, [B, A, TIE]], counts) * is_counted[:, None]


def win_rate(values: Floats, level: float = 0.95) -> Interval | None:
    """Return the mean of the values of prompts with its interval; None without prompts.

    The interval is Student's, mean ± t·s/√n. With fewer than `FEW` prompts, or where all values are equal, it is
    Wilson's, of which every variance of values between 0 and 1 is at most the assumed one.
    """
    if not len(values):
        return None
    low, high = bounds(values[None, :], level)
    return Interval(float(values.mean()), float(low[0]), float(high[0]), level, len(values))


def bounds(values: Floats, level: float = 0.95) -> tuple[Floats, Floats]:
    """Return the ends [D] of the interval of the win rate for D sets of prompts.

    Args:
        values: [D, n] the value of each prompt.
        level: Share of repetitions in which the interval holds the truth.
    """
    from scipy.stats import t

    n = values.shape[1]
    means = values.mean(1)
    spread = values.std(1, ddof=1) if n > 1 else np.zeros(len(values))
    half = float(t.ppf((1 + level) / 2, max(1, n - 1))) * spread / np.sqrt(n)
    low, high = np.maximum(0.0, means - half), np.minimum(1.0, means + half)
    wide = (spread == 0) | (n < FEW)
    if wide.any():
        ends = [wilson(float(mean) * n, n, level) for mean in means[wide]]
        low[wide], high[wide] = [one.low for one in ends], [one.high for one in ends]
    return low, high


def outcomes(values: Floats) -> NDArray[np.int64]:
    """Return [D] 1 where the interval of the win rate lies above ½, −1 where it lies below, else 0."""
    low, high = bounds(values)
    return (low > 0.5).astype(np.int64) - (high < 0.5).astype(np.int64)
