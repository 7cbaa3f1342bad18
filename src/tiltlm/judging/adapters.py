"""Scorers as comparers, and comparisons of a group as scores."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiltlm.core.checks import positive
from tiltlm.core.errors import DataError
from tiltlm.judging.cache import key_of
from tiltlm.judging.digests import digest_of
from tiltlm.judging.judge import Comparer, Item, Outcome, PairItem, Score, Scorer, Verdict
from tiltlm.judging.orders import Reconciled, both_orders, sigmoid

CHUNK = 512
"""Pairs whose responses are scored together."""


class Compared(Comparer):
    """A scorer as a comparer: P(a better) = σ((s_a − s_b) / scale). Equal scores are a tie, exactly ½."""

    def __init__(self, scorer: Scorer, scale: float) -> None:
        """Compare by the scores of `scorer`; a difference of `scale` is one nat of preference."""
        positive(scale=scale)
        self.scorer = scorer
        self.name, self.role, self.reads = scorer.name, scorer.role, scorer.reads
        self.scale = scale
        self.digest = digest_of("compared", scorer=scorer.digest, scale=scale)

    def price(self, tokens_in: int, tokens_out: int) -> float | None:
        """Return the price of the scorer."""
        return self.scorer.price(tokens_in, tokens_out)

    def compare(self, pairs: Iterable[PairItem]) -> Iterator[Verdict]:
        """Yield one verdict for each pair, in order. Each distinct response is scored once."""
        waiting, known = iter(pairs), dict[str, Score]()
        while chunk := list(islice(waiting, CHUNK)):
            items = [item for pair in chunk for item in sides(pair)]
            keys = [key_of(self.scorer, item) for item in items]
            new = {key: item for key, item in zip(keys, items, strict=True) if key not in known}
            known |= zip(new, self.scorer.score(new.values()), strict=True)
            fresh = set(new)
            for left, right in zip(keys[::2], keys[1::2], strict=True):
                scores = [known[key] if key in fresh else paid(known[key]) for key in (left, right)]
                fresh -= {left, right}
                yield verdict_of_scores(scores[0], scores[1], self.scale)


def sides(pair: PairItem) -> tuple[Item, Item]:
    """Return the two responses of a pair as items to score."""
    return (
        Item(pair.prompt, pair.a, pair.row, pair.ended[0]),
        Item(pair.prompt, pair.b, pair.row, pair.ended[1]),
    )


def paid(score: Score) -> Score:
    """Return a score that is used once more: it costs nothing again."""
    return replace(score, cached=True, cost=0.0, tokens_in=0, tokens_out=0)


def verdict_of_scores(left: Score, right: Score, scale: float) -> Verdict:
    """Return the verdict that two scores give; an error if one of the two failed."""
    costs = [score.cost for score in (left, right)]
    common: dict[str, Any] = {
        "cost": None if None in costs else sum(cost for cost in costs if cost is not None),
        "tokens_in": left.tokens_in + right.tokens_in,
        "tokens_out": left.tokens_out + right.tokens_out,
        "cached": left.cached and right.cached,
        "mode": "scores",
    }
    if left.value is None or right.value is None:
        return Verdict("ab", "error", error=left.error or right.error or "no score", **common)
    gap = left.value - right.value
    outcome: Outcome = "left" if gap > 0 else "right" if gap < 0 else "tie"
    return Verdict("ab", outcome, p_left=sigmoid(gap / scale), **common)


def compared(scorer: Scorer, scale: float | None = None) -> Compared:
    """Return a scorer as a comparer.

    Args:
        scorer: The scorer.
        scale: Difference of two scores that is one nat of preference; None: the scorer's own.
    """
    return Compared(scorer, scorer.scale if scale is None else scale)


def as_comparer(judge: Scorer | Comparer) -> Comparer:
    """Return a comparer as it is, and a scorer as one that compares scores."""
    return compared(judge) if isinstance(judge, Scorer) else judge


class Ranked:
    """A comparer as win rates within a group of responses to one prompt."""

    def __init__(self, comparer: Comparer) -> None:
        """Compare every pair of a group by `comparer`, in both orders."""
        self.comparer = comparer

    def rates(self, items: Sequence[Item]) -> NDArray[np.float64]:
        """Return the mean of P(i better than j) over all j of the group, itself included as ½.

        Raises:
            DataError: The items are of different prompts, or a comparison gave no probability.
        """
        if len({key_of(self.comparer, Item(item.prompt, "", item.row)) for item in items}) > 1:
            raise DataError("the responses of a group must have one prompt and one row", code="other_rows")
        pairs = list(combinations(range(len(items)), 2))
        results = both_orders(self.comparer, (pair_of(items[i], items[j]) for i, j in pairs))
        matrix = np.full((len(items), len(items)), 0.5)
        for (i, j), result in zip(pairs, results, strict=True):
            p = _known(result)
            matrix[i, j], matrix[j, i] = p, 1 - p
        rates: NDArray[np.float64] = matrix.mean(axis=1)
        return rates


def pair_of(a: Item, b: Item) -> PairItem:
    """Return two responses to one prompt as a pair, with the row of the first."""
    return PairItem(a.prompt, a.response, b.response, a.row, (a.ended, b.ended))


def _known(result: Reconciled) -> float:
    p = result.for_evaluation
    if result.status == "both_bad":
        return 0.5  # neither beats the other
    if p is None:
        errors = [verdict.error for verdict in result.verdicts if verdict.error]
        raise DataError(f"a comparison failed: {errors[0] if errors else result.status}", code="judge_error")
    return p


def ranked(comparer: Comparer) -> Ranked:
    """Return a comparer as win rates within groups."""
    return Ranked(comparer)
