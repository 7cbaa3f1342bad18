"""The columns that a judge adds to a row, and one entry for each of its judgements."""

from collections.abc import Mapping, Sequence, Set
from typing import Any, NamedTuple

from tiltlm.core.needs import Shape
from tiltlm.judging import Score
from tiltlm.judging.orders import Reconciled
from tiltlm.recipes.answers.judged_rows import ORDERS, JudgedRow

REPLACED: Mapping[Shape, frozenset[str]] = {
    "lists": ORDERS,
    "pairs": frozenset({"preference", "votes", "score_chosen", "score_rejected"}),
    "unpaired": frozenset(),
    "demonstrations": frozenset(),
}
"""Shape → columns that a judgement replaces."""


class Outcome(NamedTuple):
    """What became of one row."""

    added: dict[str, Any] | None
    """Columns to add; None: the row is left out."""
    judgements: list[dict[str, Any]]
    cause: str = ""
    """Why it is left out."""


def scored(row: JudgedRow, scores: Sequence[Score], shape: Shape) -> Outcome:
    """Return the columns with the scores of a row. A row without all of its scores is left out."""
    entries = [
        {
            "row": row.location,
            "response": k,
            "score": score.value,
            "status": "scored" if score.value is not None else "error",
            "error": score.error,
            "cost": score.cost,
            "cached": score.cached,
        }
        for k, score in enumerate(scores)
    ]
    values = [score.value for score in scores]
    if None in values:
        return Outcome(None, entries, "a judgement failed")
    if shape == "lists":
        return Outcome({"scores": values}, entries)
    if shape == "pairs":
        return Outcome({"score_chosen": values[0], "score_rejected": values[1]}, entries)
    given = row.values.get("metadata")
    return Outcome({"metadata": {**(given if isinstance(given, Mapping) else {}), "score": values[0]}}, entries)


def preferred(row: JudgedRow, found: Mapping[tuple[int, int], Reconciled], shape: Shape, *, soft: bool) -> Outcome:
    """Return the columns with the preferences of a row. What the judge could not decide is left out."""
    entries = [comparison_entry(row, pair, result) for pair, result in found.items()]
    labels = {pair: p for pair, result in found.items() if (p := result.for_training) is not None}
    if not soft:
        labels = {pair: float(p > 0.5) for pair, p in labels.items() if p != 0.5}
    if not labels:
        statuses = {result.status for result in found.values()}
        return Outcome(None, entries, _cause(statuses))
    if shape == "pairs":
        return Outcome({"preference": labels[0, 1]}, entries)
    # A soft label of a list is both directions with weights p and 1 − p: the loss is linear in the label.
    comparisons = [
        [w, l, weight]
        for (i, j), p in labels.items()
        for w, l, weight in ((i, j, p), (j, i, 1 - p))  # noqa: E741
        if weight > 0
    ]
    return Outcome({"comparisons": comparisons}, entries)


def _cause(statuses: Set[str]) -> str:
    """Return why a row has no label, as a sentence."""
    if not statuses:
        return "there is nothing to compare: fewer than two different responses, or equal scores"
    sentences = {
        "error": "a judgement failed",
        "inconsistent": "the two orders contradict each other",
        "both_bad": "both responses are bad",
        "tie": "a tie, and judge.soft is false",
    }
    return next((text for status, text in sentences.items() if status in statuses), "no preference")


def comparison_entry(row: JudgedRow, pair: tuple[int, int], result: Reconciled) -> dict[str, Any]:
    """Return one comparison as an entry of the table."""
    errors = [verdict.error for verdict in result.verdicts if verdict.error]
    costs = [verdict.cost for verdict in result.verdicts]
    return {
        "row": row.location,
        "a": pair[0],
        "b": pair[1],
        "status": result.status,
        "p": result.p,
        "position_bias": result.bias,
        "disagreement": max((v.disagreement for v in result.verdicts if v.disagreement is not None), default=None),
        "error": errors[0] if errors else "",
        "cost": None if None in costs else sum(cost for cost in costs if cost is not None),
        "cached": all(verdict.cached for verdict in result.verdicts),
    }


def scores_of(row: JudgedRow) -> list[float]:
    """Return the scores that a row has already; empty if it has none."""
    given = row.values.get("scores")
    return [float(v) for v in given] if isinstance(given, list) and None not in given else []
