"""What the judge says about the samples of a round, as one line for each prompt."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from tiltlm.core import RunError
from tiltlm.core.example import Response
from tiltlm.data.accounting import excerpt
from tiltlm.judging import Comparer, Item, Scorer
from tiltlm.judging.adapters import pair_of
from tiltlm.judging.judge import MAX_ERRORS
from tiltlm.judging.orders import each_in_both_orders
from tiltlm.online.examples.shaping import ShapingSettings
from tiltlm.online.groups import Group, Sample, Who, preference_of_pairs, preference_of_scores, sample_id
from tiltlm.recipes.progress import ProgressCallback
from tiltlm.sampling.answers import AnswerRow

NO_SHAPING = ShapingSettings()


def judge_round(
    judge: Scorer | Comparer,
    rows: Sequence[AnswerRow],
    progress: ProgressCallback,
    *,
    accept_errors: bool = False,
) -> list[dict[str, Any]]:
    """Judge the samples of a round: each one by its score, or every two of a prompt in both orders.

    Args:
        judge: The judge.
        rows: The samples.
        progress: Called with the judgements that are done.
        accept_errors: Go on however many judgements failed; samples without one are not used.

    Returns:
        For each prompt `id`, `scores` or `pairs` ([place, place, P(first better) or null]), `statuses` with counts, and
        `cost` if judging costs something.

    Raises:
        RunError: Too many judgements failed.
    """
    verdicts = list(_scored(judge, rows, progress) if isinstance(judge, Scorer) else _compared(judge, rows, progress))
    if not accept_errors:
        _check_errors(verdicts)
    return verdicts


def _item(row: AnswerRow, place: int) -> Item:
    prompt = row.prompt if isinstance(row.prompt, str) else tuple(row.prompt)
    return Item(prompt, row.answers[place], row.row, row.ended[place])


def _scored(judge: Scorer, rows: Sequence[AnswerRow], progress: ProgressCallback) -> Iterator[dict[str, Any]]:
    total, done = sum(len(row.answers) for row in rows), 0
    found = judge.score(_item(row, place) for row in rows for place in range(len(row.answers)))
    for row in rows:
        own = [next(found) for _ in row.answers]
        done += len(own)
        progress("judge", done, total)
        yield {
            "id": row.id,
            "scores": [one.value for one in own],
            "statuses": dict(Counter("error" if one.value is None else "ok" for one in own)),
            **_cost([one.cost for one in own]),
            "error": next((one.error for one in own if one.value is None), ""),
        }


def _compared(judge: Comparer, rows: Sequence[AnswerRow], progress: ProgressCallback) -> Iterator[dict[str, Any]]:
    places = [_pairs_of(row) for row in rows]
    total, done = sum(map(len, places)), 0
    asked = (pair_of(_item(row, i), _item(row, j)) for row, own in zip(rows, places, strict=True) for i, j in own)
    found = each_in_both_orders(judge, asked)
    for row, own in zip(rows, places, strict=True):
        results = [next(found) for _ in own]
        done += len(own)
        progress("judge", done, total)
        errors = [verdict.error for result in results for verdict in result.verdicts if verdict.error]
        yield {
            "id": row.id,
            "pairs": [[i, j, result.for_training] for (i, j), result in zip(own, results, strict=True)],
            "statuses": dict(Counter(result.status for result in results)),
            **_cost([verdict.cost for result in results for verdict in result.verdicts]),
            "error": errors[0] if errors else "",
        }


def _cost(costs: Sequence[float | None]) -> dict[str, float | None]:
    """Return the entry `cost` of a line: nothing if judging is free, null if a price is not known."""
    found = None if None in costs else sum(cost for cost in costs if cost is not None)
    return {} if found == 0 else {"cost": found}


def _pairs_of(row: AnswerRow) -> list[tuple[int, int]]:
    """Return every two samples of a prompt that have different texts."""
    return [(i, j) for i, j in combinations(range(len(row.answers)), 2) if row.answers[i] != row.answers[j]]


def _check_errors(verdicts: Sequence[Mapping[str, Any]]) -> None:
    total = sum(sum(one["statuses"].values()) for one in verdicts)
    failed = sum(one["statuses"].get("error", 0) for one in verdicts)
    if failed > MAX_ERRORS * total:
        first = next(one["error"] for one in verdicts if one["error"])
        raise RunError(
            f"{failed} of {total} judgements of this round failed ({failed / total:.1%}; at most {MAX_ERRORS:.0%} "
            f"may), the first: {excerpt(first)}. Nothing was trained on them, and what was judged is kept. Mend the "
            "judge and go on with --resume, or with --accept-errors too, which leaves these samples out",
            code="judge_errors",
            key="judge",
        )


class JudgedRow(NamedTuple):
    """The samples of a prompt: those of the policy, then those of rivals, then the response of the data."""

    row: AnswerRow
    origins: tuple[Who, ...]
    """Where each of them comes from."""


def with_rivals(
    rows: Sequence[AnswerRow],
    rivals: Sequence[AnswerRow],
    who: Who,
    of_data: Mapping[bytes, tuple[Response, str]],
) -> list[JudgedRow]:
    """Return the samples of each prompt together.

    Args:
        rows: The samples of the policy.
        rivals: The rivals of the same prompts in the same order; empty: there are none.
        who: Where the rivals come from.
        of_data: Tokens of a prompt → the response that the data has, and its text; empty: none is added.
    """
    found = []
    own: Who = "policy"
    of_rows: Who = "data"
    for place, row in enumerate(rows):
        assert row.token_ids is not None, "the sampler gives tokens"
        assert row.prompt_ids is not None, "the sampler gives tokens"
        answers, ended, ids, origins = row.answers, row.ended, row.token_ids, (own,) * len(row.answers)
        if rivals:
            other = rivals[place]
            assert other.id == row.id, "they are of the same prompts"
            assert other.token_ids is not None, "the sampler gives tokens"
            answers, ended, ids = answers + other.answers, ended + other.ended, ids + other.token_ids
            origins += (who,) * len(other.answers)
        if row.prompt_ids.tobytes() in of_data:
            response, text = of_data[row.prompt_ids.tobytes()]
            answers, ended, ids = (*answers, text), (*ended, response.ended), (*ids, response.token_ids)
            origins += (of_rows,)
        found.append(JudgedRow(row.with_answers(answers, ended, ids), origins))
    return found


def groups_of(
    rows: Sequence[JudgedRow],
    verdicts: Sequence[Mapping[str, Any]],
    number: int,
    *,
    scale: float = 1.0,
    shaping: ShapingSettings = NO_SHAPING,
    max_tokens: int = 0,
) -> list[Group]:
    """Return the samples of a round, with what the judge said, as groups.

    Args:
        rows: The samples.
        verdicts: What `judge_round` returned, in the same order; empty without a judge.
        number: The round.
        scale: Difference of two scores that is one nat of preference.
        shaping: What is taken from scores.
        max_tokens: Most tokens of a sample.
    """
    said = verdicts or [{} for _ in rows]
    groups = [_group(row, own, number, origins) for (row, origins), own in zip(rows, said, strict=True)]
    if not verdicts or "scores" not in verdicts[0]:
        return groups
    found = []
    for group in groups:
        scores = shaping.apply(group.scores, [sample.response for sample in group.samples], max_tokens)
        found.append(replace(group, scores=scores, preference=preference_of_scores(scores, scale)))
    return found


def _group(row: AnswerRow, said: Mapping[str, Any], number: int, origins: Sequence[Who]) -> Group:
    """Return the samples of a prompt; scores as the judge gave them, without preferences."""
    assert row.token_ids is not None, "the sampler gives tokens"
    assert row.prompt_ids is not None, "the sampler gives tokens"
    samples = []
    for k, (ids, ended, text) in enumerate(zip(row.token_ids, row.ended, row.answers, strict=True)):
        place = k - origins.index(origins[k])
        samples.append(
            Sample(sample_id(row.id, number, origins[k], place), origins[k], Response(ids, ended=ended), text)
        )
    unknown = np.full(len(samples), np.nan)
    if "scores" in said:
        unknown = np.array([np.nan if value is None else value for value in said["scores"]], dtype=np.float64)
    preference = preference_of_pairs(len(samples), [(i, j, p) for i, j, p in said.get("pairs", ())])
    return Group(row.id, row.prompt_ids, tuple(samples), unknown, preference)


def scores_of(verdicts: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Return the scores of each prompt's samples, NaN where the judge failed; nothing from a judge that compares."""
    found: dict[str, list[float]] = {}
    for one in verdicts:  # a prompt has a line for each of its bought pairs
        if "scores" in one:
            found.setdefault(one["id"], []).extend(math.nan if value is None else value for value in one["scores"])
    return found


def own_scores(rows: Sequence[AnswerRow], verdicts: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Return the scores of the policy's own samples of each prompt, which stand before those of rivals."""
    found, sizes = scores_of(verdicts), {row.id: len(row.answers) for row in rows}
    return {name: own[: sizes[name]] for name, own in found.items()}


def cost_of(verdicts: Sequence[Mapping[str, Any]]) -> float | None:
    """Return what these judgements cost; None if a price is not known."""
    costs = [one.get("cost", 0.0) for one in verdicts]
    return None if None in costs else math.fsum(costs)
