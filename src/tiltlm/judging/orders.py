"""Both orders of a comparison, and one result from the two verdicts.

Judges prefer a position, most of all where responses are close. So each pair is shown in both orders. What the two
orders do not agree on is counted as `inconsistent`, and a failure is never a tie.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tiltlm.judging.digests import canonical
from tiltlm.judging.judge import Comparer, Outcome, PairItem, Verdict

Status = Literal["ok", "tie", "inconsistent", "both_bad", "error"]

UNDECIDED = 0.05
"""Where two orders disagree, a probability this near to ½ is no preference."""
LIMIT = 1e-9
"""Probabilities are moved this far from 0 and 1 before their logit is taken."""
VOTES: dict[Outcome, float] = {"left_strong": 1.0, "left": 1.0, "tie": 0.5, "right": 0.0, "right_strong": 0.0}
"""A verdict without probability as one number: is the first one shown better?"""


@dataclass(frozen=True)
class Reconciled:
    """What the verdicts on one pair say together."""

    p: float | None
    """P(a is better), ties counted ½; None if the orders contradict each other without probabilities, if both
    responses are bad, or after an error."""
    status: Status
    verdicts: tuple[Verdict, ...]
    """Both, a first and then b first; or the only one."""
    bias: float | None = None
    """Half the difference of the two logits: how much the judge prefers the first position, in nats."""

    @property
    def for_training(self) -> float | None:
        """P(a is better) as a label; None if the pair should not be trained on."""
        return self.p if self.status in ("ok", "tie") else None

    @property
    def for_evaluation(self) -> float | None:
        """P(a is better) in a win rate: ½ where the orders contradict each other; None after errors and `both_bad`."""
        return 0.5 if self.status == "inconsistent" else self.for_training


def both_orders(comparer: Comparer, pairs: Iterable[PairItem]) -> list[Reconciled]:
    """Compare each pair in both orders."""
    return list(each_in_both_orders(comparer, pairs))


def each_in_both_orders(comparer: Comparer, pairs: Iterable[PairItem]) -> Iterator[Reconciled]:
    """Yield what both orders of each pair say, in the order of the pairs."""
    shown = (item for pair in pairs for item in (pair, pair.swapped))
    verdicts = comparer.compare(shown)
    for first, second in zip(verdicts, verdicts, strict=True):
        yield reconcile(first, replace(second, order="ba"))


def one_order(comparer: Comparer, pairs: Iterable[PairItem]) -> Iterator[Reconciled]:
    """Compare each pair once, in an order that its content decides; for drafts, never for training.

    The order does not depend on which of the two is called a.
    """
    pairs = list(pairs)
    swaps = [_shows_b_first(pair) for pair in pairs]
    shown = (pair.swapped if swap else pair for pair, swap in zip(pairs, swaps, strict=True))
    for verdict, swap in zip(comparer.compare(shown), swaps, strict=True):
        yield single(replace(verdict, order="ba" if swap else "ab"))


def _shows_b_first(pair: PairItem) -> bool:
    """Return whether b is shown first: true for one of the pair and its exchange, except if the two are equal."""

    def rank(text: str) -> bytes:
        return hashlib.sha256(canonical([pair.prompt, text]).encode("utf-8", "surrogatepass")).digest()

    return rank(pair.b) < rank(pair.a)


def reconcile(first: Verdict, second: Verdict) -> Reconciled:
    """Return what two verdicts say: `first` with a shown first, `second` with b shown first.

    With probabilities, logit p is the mean of both orders' logits. Without, each verdict is a vote for a (1, ½ for a
    tie, 0), and p is their mean; two opposite votes are inconsistent.
    """
    verdicts = (first, second)
    outcomes = {first.outcome, second.outcome}
    if "error" in outcomes:
        return Reconciled(None, "error", verdicts)
    if "both_bad" in outcomes:
        return Reconciled(None, "both_bad" if len(outcomes) == 1 else "inconsistent", verdicts)
    if first.p_left is None or second.p_left is None:
        votes = (VOTES[first.outcome], 1 - VOTES[second.outcome])
        if abs(votes[0] - votes[1]) == 1:
            return Reconciled(None, "inconsistent", verdicts)
        return Reconciled(sum(votes) / 2, "tie" if votes == (0.5, 0.5) else "ok", verdicts)
    # Both logits are of the response that was shown first, so exchanging a and b changes only signs: p mirrors exactly.
    left, right = logit(first.p_left), logit(second.p_left)
    p = sigmoid((left - right) / 2)
    if left * right > 0 and abs(p - 0.5) < UNDECIDED:
        return Reconciled(p, "inconsistent", verdicts, (left + right) / 2)
    return Reconciled(p, "tie" if p == 0.5 else "ok", verdicts, (left + right) / 2)


def single(verdict: Verdict) -> Reconciled:
    """Return what a single verdict says."""
    if verdict.outcome in ("error", "both_bad"):
        return Reconciled(None, "error" if verdict.outcome == "error" else "both_bad", (verdict,))
    p_left = VOTES[verdict.outcome] if verdict.p_left is None else verdict.p_left
    p = p_left if verdict.order == "ab" else 1 - p_left
    return Reconciled(p, "tie" if p == 0.5 else "ok", (verdict,))


def logit(p: float) -> float:
    """Return log p − log(1 − p), finite also for 0 and 1."""
    p = min(max(p, LIMIT), 1 - LIMIT)
    return math.log(p) - math.log1p(-p)


def tempered(verdict: Verdict, scale: float) -> Verdict:
    """Return a verdict whose logit is divided by `scale`. Which response is better stays the same."""
    if verdict.p_left is None:
        return verdict
    return replace(verdict, p_left=sigmoid(logit(verdict.p_left) / scale))


def sigmoid(x: float) -> float:
    """Return the logistic function of x. That of −x is exactly 1 minus it."""
    larger = 1 / (1 + math.exp(-abs(x)))
    return larger if x >= 0 else 1 - larger


def count_status(results: Sequence[Reconciled]) -> dict[Status, int]:
    """Return how many results have each status."""
    counts: dict[Status, int] = dict.fromkeys(("ok", "tie", "inconsistent", "both_bad", "error"), 0)
    for result in results:
        counts[result.status] += 1
    return counts
