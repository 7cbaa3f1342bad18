"""The comparison of systems: win rates with intervals, and what else changed between their answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tiltlm.core.notes import Note
from tiltlm.diagnostics import Interval, bootstrap_mean
from tiltlm.diagnostics.comparing.length_control import LengthControl, length_control, why_no_length_control
from tiltlm.diagnostics.comparing.strength import Strengths, bradley_terry
from tiltlm.diagnostics.comparing.win_rate import WinRate, mean_difference, on_grid, win_rate
from tiltlm.estimates.intervals import holm
from tiltlm.evaluation.answers.contests import OUTCOMES, Contest, JudgedPair, Progress, hold_contests
from tiltlm.evaluation.answers.systems import Aligned, System, align, is_refusal
from tiltlm.judging.judge import MAX_ERRORS, Comparer, Scorer
from tiltlm.sampling.answers import AnswerRow
from tiltlm.sampling.diversity import diversity_of

SHOWN = 5
"""Biggest wins, and biggest losses, that are shown in full."""
SHIFTS: Mapping[str, Callable[[AnswerRow], float]] = {
    "length": lambda row: float(np.mean([len(answer) for answer in row.answers])),
    "refusals": lambda row: float(np.mean([is_refusal(answer) for answer in row.answers])),
    "cut": lambda row: float(np.mean([not ended for ended in row.ended])),
    "distinct_2": lambda row: diversity_of([row]).distinct_2,
}
"""Numbers of the answers to a prompt: characters; share that opens like a refusal; share that was cut; distinct pairs
of neighbouring words as a share of all."""


@dataclass(frozen=True)
class Rate:
    """A win rate of part of the prompts."""

    name: str
    win_rate: WinRate
    adjusted_p: float
    """p-value adjusted by Holm for the number of parts."""


@dataclass(frozen=True)
class PairOfSystems:
    """Two systems compared. All numbers are of the first one; exchanging the two mirrors each of them exactly."""

    first: str
    second: str
    win_rate: WinRate | None
    """None if no pair of answers could be judged."""
    adjusted_p: float | None
    """p-value adjusted by Holm for the number of pairs of systems."""
    counts: Mapping[str, int]
    """Outcome → pairs of answers."""
    length_control: LengthControl | None
    no_length_control: Note | None
    """Why there is no length-controlled rate."""
    shifts: Mapping[str, Interval]
    """First − second, paired by prompt, of each number of `SHIFTS`."""
    score_difference: Interval | None
    """Mean score of the first − that of the second; None without a scorer."""
    by_category: tuple[Rate, ...]
    by_temperature: tuple[tuple[float | None, WinRate], ...]
    wins: tuple[JudgedPair, ...]
    """Where the first one is ahead by most."""
    losses: tuple[JudgedPair, ...]

    @property
    def error_share(self) -> float:
        """Share of pairs of answers without a judgement."""
        return self.counts["error"] / max(1, sum(self.counts.values()))

    @property
    def has_headline(self) -> bool:
        """True if the win rate may be stated: few judgements failed."""
        return self.win_rate is not None and self.error_share <= MAX_ERRORS

    @property
    def outcome(self) -> str:
        """`first`, `second`, `undecided`, or `no_headline`; decided if the interval of the win rate excludes ½."""
        if not self.has_headline or self.win_rate is None:
            return "no_headline"
        if not self.win_rate.is_decided:
            return "undecided"
        return "first" if self.win_rate.rate.low > 0.5 else "second"


@dataclass(frozen=True)
class SystemNumbers:
    """Numbers of the answers of one system."""

    name: str
    num_answers: int
    numbers: Mapping[str, Interval]
    """Each number of `SHIFTS`, and `score` if a scorer judged, with intervals over prompts."""
    distance: float
    """Mean distance of two answers to one prompt (`sampling.diversity`); NaN with one answer each."""
    duplicates: float
    trained_on: int | None
    """Prompts that it was trained on; None if that is not known."""


@dataclass(frozen=True)
class SystemComparison:
    """Systems compared by one judge."""

    systems: tuple[SystemNumbers, ...]
    pairs: tuple[PairOfSystems, ...]
    strengths: Strengths | None
    """Of three and more systems."""
    judge: str
    judge_digest: str
    baseline: str | None
    num_prompts: int
    temperatures: tuple[float | None, ...]
    seed: int
    contests: tuple[Contest, ...]
    overlap: Mapping[str, tuple[str, ...]]
    """Prompt → systems that were trained on it."""
    same_judge: tuple[str, ...] = ()
    """Systems that were trained on labels of this very judge."""


def compare_systems(
    systems: Sequence[System],
    judge: Scorer | Comparer,
    *,
    baseline: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> SystemComparison:
    """Judge the answers of systems to the same prompts, and compare them.

    Args:
        systems: Two and more.
        judge: Scores or compares answers.
        baseline: Compare the others with this one only. None: all pairs.
        seed: Seed of bootstrap and random exchanges.
        progress: Called as judgements are made.

    Raises:
        ConfigError: names or temperatures do not fit together.
        DataError: the systems answered different prompts.
    """
    aligned = align(systems)
    contests = hold_contests(aligned, judge, baseline, progress)
    by_pair: dict[tuple[str, str], list[Contest]] = {}
    for contest in contests:
        by_pair.setdefault((contest.first, contest.second), []).append(contest)
    pairs = [_compare(aligned, own, seed) for own in by_pair.values()]
    return SystemComparison(
        systems=tuple(_numbers(aligned, system, contests, seed) for system in aligned.systems),
        pairs=tuple(_adjusted(pairs)),
        strengths=_strengths(aligned, contests, baseline, seed) if len(systems) > 2 else None,
        judge=judge.name,
        judge_digest=judge.digest,
        baseline=baseline,
        num_prompts=len(aligned.prompts),
        temperatures=aligned.temperatures,
        seed=seed,
        contests=tuple(contests),
        overlap=_overlap(aligned),
        same_judge=tuple(system.name for system in aligned.systems if judge.digest in system.labelled_by),
    )


def _compare(aligned: Aligned, contests: Sequence[Contest], seed: int) -> PairOfSystems:
    first, second = contests[0].first, contests[0].second
    judged = [contest for contest in contests if contest.value is not None]
    prompts, values, gaps = _by_prompt(judged)
    no_control = why_no_length_control(gaps)
    temperatures = aligned.temperatures if len(aligned.temperatures) > 1 else ()
    scores = [contest.scores for contest in contests if contest.scores is not None]
    return PairOfSystems(
        first=first,
        second=second,
        win_rate=win_rate(values, seed=seed) if len(prompts) else None,
        adjusted_p=None,
        counts={name: sum(contest.counts[name] for contest in contests) for name in OUTCOMES},
        length_control=None if no_control else length_control(values, gaps, seed=seed),
        no_length_control=no_control,
        shifts=_shifts(aligned, first, second, seed),
        score_difference=mean_difference([a - b for a, b in scores], [c.prompt for c in contests if c.scores], seed)
        if scores
        else None,
        by_category=_categories(judged, seed),
        by_temperature=tuple(
            (t, win_rate(_by_prompt(own)[1], seed=seed))
            for t in temperatures
            if (own := [c for c in judged if c.temperature == t])
        ),
        wins=_extremes(judged, 1),
        losses=_extremes(judged, -1),
    )


def _by_prompt(judged: Sequence[Contest]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return prompts, the mean of P(first better) at each over its temperatures, and the mean difference in length."""
    own: dict[str, list[tuple[float, float]]] = {}
    for contest in judged:
        assert contest.value is not None, "only judged contests are passed in"
        own.setdefault(contest.prompt, []).append((contest.value - 0.5, contest.gap))
    means = np.array([np.mean(rows, axis=0) for rows in own.values()]).reshape(-1, 2)
    return list(own), 0.5 + on_grid(means[:, 0]), means[:, 1]


def _adjusted(pairs: Sequence[PairOfSystems]) -> list[PairOfSystems]:
    known = [pair for pair in pairs if pair.win_rate is not None]
    adjusted = iter(holm([pair.win_rate.p_value for pair in known if pair.win_rate is not None]))
    return [replace(pair, adjusted_p=next(adjusted)) if pair.win_rate is not None else pair for pair in pairs]


def _categories(judged: Sequence[Contest], seed: int) -> tuple[Rate, ...]:
    names = sorted({contest.category for contest in judged if contest.category})
    if len(names) < 2:
        return ()
    rates = []
    for name in names:
        _, values, _ = _by_prompt([contest for contest in judged if contest.category == name])
        rates.append(win_rate(values, seed=seed))
    adjusted = holm([rate.p_value for rate in rates])
    return tuple(Rate(*row) for row in zip(names, rates, adjusted, strict=True))


def _extremes(judged: Sequence[Contest], sign: int) -> tuple[JudgedPair, ...]:
    """Return the pairs of answers where the first (sign 1) or the second system (−1) is ahead by most."""
    pairs = [contest.pair for contest in judged if contest.pair is not None and sign * contest.pair.margin > 0]
    return tuple(sorted(pairs, key=lambda pair: -sign * pair.margin)[:SHOWN])


def _rows(aligned: Aligned, name: str) -> list[list[AnswerRow]]:
    """Return [P][T] the rows of a system."""
    own = {system.name: system for system in aligned.systems}[name]
    temperatures = aligned.temperatures if len(own.temperatures) > 1 else aligned.temperatures[:1]
    return [[aligned.rows[name, t, prompt] for t in temperatures] for prompt in aligned.prompts]


def _of_prompts(aligned: Aligned, name: str, number: Callable[[AnswerRow], float]) -> np.ndarray:
    """Return [P] a number of a system's answers, the mean over temperatures."""
    return np.array([float(np.mean([number(row) for row in rows])) for rows in _rows(aligned, name)])


def _shifts(aligned: Aligned, first: str, second: str, seed: int) -> dict[str, Interval]:
    found = {}
    for key, number in SHIFTS.items():
        gaps = _of_prompts(aligned, first, number) - _of_prompts(aligned, second, number)
        if np.isfinite(gaps).any():
            found[key] = mean_difference(gaps[np.isfinite(gaps)], None, seed)
    return found


def _numbers(aligned: Aligned, system: System, contests: Sequence[Contest], seed: int) -> SystemNumbers:
    numbers = {}
    for key, number in SHIFTS.items():
        values = _of_prompts(aligned, system.name, number)
        if np.isfinite(values).any():
            numbers[key] = bootstrap_mean(values[np.isfinite(values)], seed=seed)
    scores = _scores(system.name, contests)
    if scores:
        numbers["score"] = bootstrap_mean(list(scores.values()), [prompt for prompt, _ in scores], seed=seed)
    diversity = diversity_of([row for rows in _rows(aligned, system.name) for row in rows])
    trained = None if system.trained_on is None else len(system.trained_on & set(aligned.prompts))
    return SystemNumbers(system.name, diversity.num_answers, numbers, diversity.distance, diversity.duplicates, trained)


def _scores(name: str, contests: Sequence[Contest]) -> dict[tuple[str, float | None], float]:
    """Return the mean score of a system's answers at each prompt and temperature."""
    found = {}
    for contest in contests:
        if contest.scores is not None and name in (contest.first, contest.second):
            found[contest.prompt, contest.temperature] = contest.scores[name == contest.second]
    return found


def _strengths(aligned: Aligned, contests: Sequence[Contest], baseline: str | None, seed: int) -> Strengths | None:
    """Return the strengths, fitted with the systems in the order of their names; None if nothing was judged."""
    names = sorted(system.name for system in aligned.systems)
    rows = []
    for pair in sorted({(c.first, c.second) for c in contests}):
        own = [c for c in contests if (c.first, c.second) == pair and c.value is not None]
        prompts, values, _ = _by_prompt(own)
        rows += [(names.index(pair[0]), names.index(pair[1]), v, p) for p, v in zip(prompts, values, strict=True)]
    if not rows:
        return None
    first, second, rates, keys = (list(column) for column in zip(*rows, strict=True))
    return bradley_terry(names, first, second, rates, keys, anchor=baseline, seed=seed)


def _overlap(aligned: Aligned) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for prompt in aligned.prompts:
        names = tuple(s.name for s in aligned.systems if s.trained_on is not None and prompt in s.trained_on)
        if names:
            found[prompt] = names
    return found
