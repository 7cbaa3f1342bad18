"""Contests: two systems at one prompt and temperature, judged.

A scorer scores every answer once, and all pairs of answers are compared by their scores. A comparer is shown the i-th
answers of both, in both orders. Answers are put before the judge in an order that their texts decide, so nothing
depends on which system is called the first. Equal texts are a tie, and nobody is asked.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from tiltlm.core import ConfigError
from tiltlm.diagnostics.comparing.win_rate import on_grid
from tiltlm.evaluation.answers.systems import Aligned
from tiltlm.judging.judge import Comparer, Item, PairItem, Scorer, Verdict
from tiltlm.judging.orders import Reconciled, each_in_both_orders
from tiltlm.sampling.answers import AnswerRow

OUTCOMES = ("win", "loss", "tie", "identical", "inconsistent", "both_bad", "error")
"""What a judged pair of answers can be. `identical` is a tie of equal texts."""


@dataclass(frozen=True)
class Said:
    """What a judge said about two answers in one order."""

    shown_first: str
    """Name of the system whose answer was shown first."""
    outcome: str
    p_left: float | None
    text: str
    """Its reason or raw answer, or the error."""


@dataclass(frozen=True)
class JudgedPair:
    """Two answers with what was said about them, in full."""

    prompt: str
    """As text."""
    answers: tuple[str, str]
    margin: float
    """Above 0 if the first one is better: difference of scores, or P(first better) − ½."""
    scores: tuple[float, float] | None
    said: tuple[Said, ...]


@dataclass(frozen=True)
class Contest:
    """Two systems at one prompt and temperature."""

    first: str
    second: str
    temperature: float | None
    prompt: str
    """Key of the prompt."""
    prompt_id: str
    category: str
    value: float | None
    """Mean of P(first better) over the judged pairs, ties and contradictions ½; None if none could be judged."""
    counts: Mapping[str, int]
    """Outcome → number of pairs of answers."""
    gap: float
    """Difference in mean length, first − second, in characters."""
    pair: JudgedPair | None = None
    """The pair of answers with the largest margin."""
    scores: tuple[float, float] | None = None
    """Mean score of the answers of both; None without a scorer, or if an answer has no score."""


Progress = Callable[[int, int], None]
"""Told how many judgements are done, of how many."""


def hold_contests(
    aligned: Aligned, judge: Scorer | Comparer, baseline: str | None = None, progress: Progress | None = None
) -> list[Contest]:
    """Judge all pairs of systems at all prompts and temperatures.

    Args:
        aligned: The systems.
        judge: Scores or compares.
        baseline: Compare the others with this system only. None: all pairs.
        progress: Called as judgements are made.

    Raises:
        ConfigError: the baseline is none of the systems.
    """
    matches = [
        Match(a, b, temperature, prompt, aligned.rows[a, temperature, prompt], aligned.rows[b, temperature, prompt])
        for a, b in pairs_of([system.name for system in aligned.systems], baseline)
        for temperature in aligned.temperatures
        for prompt in aligned.prompts
    ]
    tell = progress or _ignore
    if isinstance(judge, Scorer):
        return _by_scores(matches, judge, tell)
    return _by_comparing(matches, judge, tell)


def _ignore(done: int, total: int, /) -> None:
    """Ignore progress."""


def pairs_of(names: Sequence[str], baseline: str | None) -> list[tuple[str, str]]:
    """Return the pairs of systems to compare.

    Raises:
        ConfigError: the baseline is none of the systems.
    """
    if baseline is None:
        return list(combinations(names, 2))
    if baseline not in names:
        raise ConfigError(
            f"baseline {baseline!r} is none of the systems {', '.join(names)}", code="unknown_name", key="baseline"
        )
    return [(name, baseline) for name in names if name != baseline]


@dataclass(frozen=True, eq=False)
class Match:
    """Answers of two systems to one prompt."""

    first: str
    second: str
    temperature: float | None
    prompt: str
    a: AnswerRow
    b: AnswerRow

    def contest(
        self,
        advantages: Sequence[float],
        counts: Mapping[str, int],
        pair: JudgedPair | None = None,
        scores: tuple[float, float] | None = None,
    ) -> Contest:
        """Return the judged match; `advantages` are P(first better) − ½ of the pairs that could be judged."""
        lengths = [float(np.mean([len(answer) for answer in row.answers])) for row in (self.a, self.b)]
        value = 0.5 + float(on_grid(np.mean(advantages))) if len(advantages) else None
        return Contest(
            self.first, self.second, self.temperature, self.prompt, self.a.id, self.a.category or self.b.category,
            value, {name: counts.get(name, 0) for name in OUTCOMES}, lengths[0] - lengths[1], pair, scores,
        )  # fmt: skip


def text_of(row: AnswerRow) -> str:
    """Return a prompt as text for people: the turns of a conversation one below the other."""
    if isinstance(row.prompt, str):
        return row.prompt
    return "\n\n".join(f"[{turn.get('role', '')}] {turn.get('content', '')}" for turn in row.prompt)


def _by_scores(matches: Sequence[Match], scorer: Scorer, progress: Progress) -> list[Contest]:
    """Compare all pairs of answers by their scores."""
    items: dict[tuple[str, str, bool], Item] = {}
    for match in matches:
        for row in (match.a, match.b):
            for answer, ended in zip(row.answers, row.ended, strict=True):
                items.setdefault((match.prompt, answer, ended), _item(row, answer, ended))
    scores: dict[tuple[str, str, bool], float] = {}
    order = sorted(items)
    for done, (key, score) in enumerate(zip(order, scorer.score(items[key] for key in order), strict=True), 1):
        scores[key] = float("nan") if score.value is None else score.value
        progress(done, len(items))

    def of(match: Match, row: AnswerRow) -> np.ndarray:
        return np.array([scores[match.prompt, *key] for key in zip(row.answers, row.ended, strict=True)])

    return [_scored(match, of(match, match.a), of(match, match.b)) for match in matches]


def _item(row: AnswerRow, answer: str, ended: bool) -> Item:
    prompt = row.prompt if isinstance(row.prompt, str) else tuple(row.prompt)
    return Item(prompt, answer, row.row, ended)


def _scored(match: Match, a: np.ndarray, b: np.ndarray) -> Contest:
    margins = a[:, None] - b[None, :]
    known = np.isfinite(margins)
    same = np.array([[x == y for y in match.b.answers] for x in match.a.answers])
    counts = {
        "win": int(np.sum(margins[known] > 0)),
        "loss": int(np.sum(margins[known] < 0)),
        "tie": int(np.sum((margins == 0) & ~same)),
        "identical": int(np.sum((margins == 0) & same)),
        "error": int(np.sum(~known)),
    }
    pair = None
    if known.any():
        sizes = np.where(known, np.abs(margins), -1)
        largest = np.argwhere(sizes == sizes.max()).tolist()
        i, j = min(largest, key=lambda at: sorted((match.a.answers[at[0]], match.b.answers[at[1]])))
        answers = match.a.answers[i], match.b.answers[j]
        pair = JudgedPair(text_of(match.a), answers, float(margins[i, j]), (float(a[i]), float(b[j])), ())
    complete = bool(np.isfinite(a).all() and np.isfinite(b).all())
    means = (float(a.mean()), float(b.mean())) if complete else None
    return match.contest((0.5 * np.sign(margins[known])).tolist(), counts, pair, means)


@dataclass(eq=False)
class _Judged:
    """Judged pairs of one match, as they come in."""

    advantages: list[float] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    pair: JudgedPair | None = None


def _by_comparing(matches: Sequence[Match], comparer: Comparer, progress: Progress) -> list[Contest]:
    """Show the i-th answers of both systems to a comparer, in both orders."""
    judged = [_Judged() for _ in matches]
    asked: list[tuple[int, int, bool]] = []
    items: list[PairItem] = []
    for m, match in enumerate(matches):
        for i, (a, b) in enumerate(zip(match.a.answers, match.b.answers, strict=False)):
            if a == b:
                judged[m].advantages.append(0.0)
                judged[m].counts["identical"] = judged[m].counts.get("identical", 0) + 1
                continue
            is_flipped = b < a
            one, two = (match.b, match.a) if is_flipped else (match.a, match.b)
            prompt = one.prompt if isinstance(one.prompt, str) else tuple(one.prompt)
            names = (match.second, match.first) if is_flipped else (match.first, match.second)
            ended = (one.ended[i], two.ended[i])
            items.append(PairItem(prompt, one.answers[i], two.answers[i], match.a.row, ended, names))
            asked.append((m, i, is_flipped))
    order = sorted(range(len(items)), key=lambda k: (matches[asked[k][0]].prompt, items[k].a, items[k].b))
    results: Iterator[Reconciled] = each_in_both_orders(comparer, (items[k] for k in order))
    found: dict[int, Reconciled] = {}
    for done, (k, result) in enumerate(zip(order, results, strict=True), 1):
        found[k] = result
        progress(done, len(items))
    for k, (m, i, is_flipped) in enumerate(asked):
        _take(judged[m], matches[m], i, found[k], is_flipped)
    return [match.contest(own.advantages, own.counts, own.pair) for match, own in zip(matches, judged, strict=True)]


def _take(judged: _Judged, match: Match, i: int, result: Reconciled, is_flipped: bool) -> None:
    """Add one result to its match; `is_flipped` says that the second system's answer was called a."""
    p = result.for_evaluation
    margin = None if p is None else (0.5 - p if is_flipped else p - 0.5)
    outcome: str = result.status
    if margin is not None:
        judged.advantages.append(margin)
        outcome = result.status if result.status != "ok" else "win" if margin > 0 else "loss" if margin < 0 else "tie"
    judged.counts[outcome] = judged.counts.get(outcome, 0) + 1
    if margin is not None and (judged.pair is None or abs(margin) > abs(judged.pair.margin)):
        names = (match.second, match.first) if is_flipped else (match.first, match.second)
        said = tuple(_said(verdict, names) for verdict in result.verdicts)
        judged.pair = JudgedPair(text_of(match.a), (match.a.answers[i], match.b.answers[i]), margin, None, said)


def _said(verdict: Verdict, names: tuple[str, str]) -> Said:
    first = names[0] if verdict.order == "ab" else names[1]
    text = verdict.error or verdict.rationale or verdict.raw
    return Said(first, verdict.outcome, verdict.p_left, text)
