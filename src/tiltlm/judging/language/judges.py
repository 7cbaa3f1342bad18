"""Language models as judges: comparisons, grades and rubrics, from the replies of any asker."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import tee
from typing import Any

from tiltlm.judging.digests import digest_of
from tiltlm.judging.judge import Comparer, Item, Outcome, PairItem, Role, Score, Scorer, Verdict
from tiltlm.judging.language.question import Asker, Reply
from tiltlm.judging.language.templates import (
    CRITERIA,
    LEVELS,
    RUBRIC_TEMPLATE,
    compare_question,
    grade_question,
    grade_template,
    pairwise_template,
    rubric_questions,
)

OUTCOME: Mapping[str, Outcome] = {
    "first_much": "left_strong",
    "first": "left",
    "tie": "tie",
    "second": "right",
    "second_much": "right_strong",
    "both_bad": "both_bad",
}
"""Label → outcome."""
NUM_DRAWS = 3
"""How often a model that writes its grade is asked. With one draw, a few levels make many ties."""


class PairwiseJudge(Comparer):
    """A language model that is shown two answers."""

    scales_logits = True

    def __init__(self, asker: Asker, *, criteria: str = CRITERIA, ties: bool = True, role: Role = "held_out") -> None:
        """Make the judge.

        Args:
            asker: The language model.
            criteria: What makes an answer better, as a sentence.
            ties: Offer a tie.
            role: Its role.
        """
        self.asker = asker
        self.role = role
        self.name, self.model, self.weights = asker.name, asker.name, asker.weights
        self.is_sampled = asker.is_sampled
        self._criteria = criteria
        self._template = pairwise_template(ties=ties)
        self.digest = digest_of("pairwise", model=asker.digest, template=self._template.digest, criteria=criteria)

    def price(self, tokens_in: int, tokens_out: int) -> float | None:
        """Return the price of the model."""
        return self.asker.price(tokens_in, tokens_out)

    def compare(self, pairs: Iterable[PairItem]) -> Iterator[Verdict]:
        """Yield one verdict for each pair, in order."""
        groups = (
            (compare_question(self._template, pair, self._criteria, self.asker.special_tokens),) for pair in pairs
        )
        for (reply,) in self.asker.ask(groups):
            yield verdict_of(reply, self._template.title)


def verdict_of(reply: Reply, template: str = "") -> Verdict:
    """Return the verdict that a reply gives: P(first better) = p_first + ½ p_tie."""
    p_left = p_tie = None
    outcome: Outcome = "error" if reply.error else OUTCOME[reply.word]
    if reply.probabilities is not None and not reply.error:
        first, second = reply.probabilities["first"], reply.probabilities["second"]
        p_tie = reply.probabilities.get("tie", 0.0)
        p_left = 0.5 + (first - second) / 2  # exactly ½ where both are equal, and it mirrors exactly
        outcome = "tie" if p_tie > max(first, second) or first == second else "left" if first > second else "right"
    return Verdict(
        order="ab",
        outcome=outcome,
        p_left=p_left,
        p_tie=p_tie,
        label_mass=reply.label_mass,
        error=reply.error,
        raw=reply.raw,
        rationale=reply.rationale,
        finish_reason=reply.finish_reason,
        mode=reply.mode,
        model=reply.model,
        template=template,
        cost=reply.cost,
        tokens_in=reply.tokens_in,
        tokens_out=reply.tokens_out,
        latency=reply.latency,
        attempt=reply.attempt,
    )


class GradeJudge(Scorer):
    """A language model that grades one answer on a few ordered levels; the score is the expected level."""

    def __init__(
        self,
        asker: Asker,
        *,
        criteria: str = CRITERIA,
        levels: Sequence[str] = LEVELS,
        num_draws: int = NUM_DRAWS,
        role: Role = "held_out",
    ) -> None:
        """Make the judge.

        Args:
            asker: The language model.
            criteria: What makes an answer good, as a sentence.
            levels: What each level means, the worst first.
            num_draws: How often a model that writes its grade is asked; the score is the mean.
            role: Its role.
        """
        self.asker = asker
        self.role = role
        self.name, self.model, self.weights = asker.name, asker.name, asker.weights
        self.is_sampled = asker.is_sampled
        self._criteria, self._num_draws = criteria, num_draws
        self._template = grade_template(levels)
        self.digest = digest_of(
            "grade", model=asker.digest, template=self._template.digest, criteria=criteria, draws=num_draws
        )

    def price(self, tokens_in: int, tokens_out: int) -> float | None:
        """Return the price of the model."""
        return self.asker.price(tokens_in, tokens_out)

    def score(self, items: Iterable[Item]) -> Iterator[Score]:
        """Yield a score for each item, in order."""
        special = self.asker.special_tokens
        groups = ((grade_question(self._template, i, self._criteria, self._num_draws, special),) for i in items)
        for (reply,) in self.asker.ask(groups):
            yield _score([reply], None if reply.error else expected_level(reply))


def expected_level(reply: Reply) -> float:
    """Return the mean level under the probabilities of a reply."""
    if reply.probabilities is None:
        return float(reply.word)
    return math.fsum(float(word) * p for word, p in reply.probabilities.items())


class RubricJudge(Scorer):
    """A language model that checks statements about an answer: R = Σ w·p / Σ |w|."""

    def __init__(
        self, asker: Asker, *, items: Sequence[str] = (), column: str | None = None, role: Role = "held_out"
    ) -> None:
        """Make the judge.

        Args:
            asker: The language model.
            items: Statements, each as text or as `WEIGHT: text`. Negative weights are for what an answer must not do.
            column: Column of the data with the statements of each row; None: `items` for all.
            role: Its role.

        Raises:
            ValueError: A weight is 0.
        """
        self.asker = asker
        self.role = role
        self.name, self.model, self.weights = asker.name, asker.name, asker.weights
        self.is_sampled = asker.is_sampled
        self._items = [statement_of(item) for item in items]
        self._column = column
        self.reads = () if column is None else (column,)
        self.digest = digest_of(
            "rubric", model=asker.digest, template=RUBRIC_TEMPLATE.digest, items=self._items, column=column
        )

    def price(self, tokens_in: int, tokens_out: int) -> float | None:
        """Return the price of the model."""
        return self.asker.price(tokens_in, tokens_out)

    def score(self, items: Iterable[Item]) -> Iterator[Score]:
        """Yield a score for each item, in order; an error for a row without statements."""
        special = self.asker.special_tokens
        ahead, waiting = tee((item, self._statements(item)) for item in items)
        groups = (
            rubric_questions(RUBRIC_TEMPLATE, item, [text for _, text in statements], special)
            for item, statements in waiting
            if not isinstance(statements, str)
        )
        replies = self.asker.ask(groups)
        for _, statements in ahead:
            if isinstance(statements, str):
                yield Score(None, error=statements)
                continue
            found = next(replies)
            failed = any(reply.error for reply in found)
            yield _score(found, None if failed else weighted([w for w, _ in statements], found))

    def _statements(self, item: Item) -> list[tuple[float, str]] | str:
        """Return weight and text of each statement, or why there are none."""
        if self._column is None:
            return self._items
        given = item.row.get(self._column)
        if not isinstance(given, list | tuple) or not given:
            return f"the row has no statements in its column {self._column!r}: a list of texts, or of text and weight"
        try:
            return [statement_of(entry) for entry in given]
        except ValueError as error:
            return f"column {self._column!r}: {error}"


def statement_of(entry: Any) -> tuple[float, str]:
    """Return weight and text of a statement: `text`, `WEIGHT: text`, or a mapping with `text` and `weight`.

    Raises:
        ValueError: It is none of these, is empty, or has weight 0.
    """
    weight: Any = 1.0
    text: Any = entry
    if isinstance(entry, Mapping):
        text, weight = entry.get("text"), entry.get("weight", 1.0)
    elif isinstance(entry, str):
        head, colon, rest = entry.partition(":")
        number = _number(head)
        if colon and number is not None:
            weight, text = number, rest.strip()
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{entry!r} is no statement; write a text, or WEIGHT: text")
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight) or weight == 0:
        raise ValueError(f"{entry!r} has the weight {weight!r}; it must be a number and not 0")
    return float(weight), text.strip()


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def weighted(weights: Sequence[float], replies: Sequence[Reply]) -> float:
    """Return Σ w·p / Σ |w|, with p the probability that a statement is true: 1 or 0 if the model wrote its answer."""
    p = [(reply.probabilities or {reply.word: 1.0}).get("yes", 0.0) for reply in replies]
    return math.fsum(w * q for w, q in zip(weights, p, strict=True)) / math.fsum(map(abs, weights))


def _score(replies: Sequence[Reply], value: float | None) -> Score:
    costs = [reply.cost for reply in replies]
    return Score(
        value,
        error=next((reply.error for reply in replies if reply.error), ""),
        cost=None if None in costs else math.fsum(cost for cost in costs if cost is not None),
        tokens_in=sum(reply.tokens_in for reply in replies),
        tokens_out=sum(reply.tokens_out for reply in replies),
        raw="\n---\n".join(reply.raw for reply in replies if reply.raw),
    )
