"""Each annotator: how much, how fast, how reliably, and what stands out.

What stands out is tested against chance or against the other annotators. All tests of all annotators are one family,
and their p-values are adjusted by Holm's method: in a project where nobody stands out, the chance that anybody is
flagged is at most `LEVEL`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from tiltlm.core.notes import Note
from tiltlm.data.labels import Agreement
from tiltlm.data.labels.agreement import AnnotatorAgreement, left_rate
from tiltlm.data.labels.votes import TIE
from tiltlm.estimates.intervals import Interval, holm, wilson
from tiltlm.labeling.monitor.facts import Facts, VoteFact
from tiltlm.labeling.monitor.words import percent

LEVEL = 0.05
FAST_MS = 2000
FAST_CHARS = 100
"""Characters of both responses a second: four times as fast as people read English (238 words, about 1,430 characters a
minute; Brysbaert 2019, J. Mem. Lang. 109:104047). A vote in less than `FAST_MS`, or than reading takes at this speed,
is called very fast."""
FAST_SHARE = 0.2
"""Share of very fast votes from which an annotator is flagged."""
MIN_TIMED = 10
"""Votes with a known time below which speed flags nobody."""
BREAK = 300.0
"""Seconds between two votes above which the annotator was away; pace does not count them."""


@dataclass(frozen=True)
class AnnotatorNumbers:
    """One annotator."""

    name: str
    is_active: bool
    num_votes: int
    """Votes on tasks, without repeats and skips."""
    num_skips: int
    votes_per_hour: float | None
    """Pace while at work: gaps of more than five minutes do not count. None with fewer than two votes."""
    median_seconds: float | None
    """Median time from seeing a pair to the vote."""
    num_fast: int
    num_timed: int
    """Votes whose time is known."""
    gold: Interval | None
    """Share of right votes on silent gold, with Wilson's interval. Both bad is a tie."""
    calibration: Interval | None
    others: Interval | None
    """Share of votes equal to the majority of the others."""
    left: Interval | None
    """Share of decided votes for the left side."""
    left_p: float | None
    """Two-sided p-value of the binomial test of ½, not adjusted."""
    consistency: Interval | None
    """Share of repeats with the same vote."""
    ties: float | None
    labels_changed: int
    """Pairs whose majority changes without this annotator."""
    flags: tuple[Note, ...] = ()


@dataclass(frozen=True)
class _Test:
    """A test of one annotator."""

    name: str
    p: float
    flag: Note


def measure_annotators(facts: Facts, agreement: Agreement | None) -> tuple[AnnotatorNumbers, ...]:
    """Return the numbers of everybody who votes or may vote, in the order of names.

    Args:
        facts: State of the project.
        agreement: Agreement of its `first_votes`; None without votes.
    """
    agreed = {one.annotator: one for one in agreement.annotators} if agreement else {}
    votes: dict[str, list[VoteFact]] = {one.name: [] for one in facts.people if one.role == "annotator"}
    for vote in facts.votes:
        votes.setdefault(vote.annotator, []).append(vote)
    found = {name: _measure(facts, name, own, agreed.get(name)) for name, own in votes.items()}
    flags = _flags(found)
    return tuple(_with_flags(found[name], flags.get(name, [])) for name in sorted(found))


def _with_flags(numbers: AnnotatorNumbers, flags: Sequence[Note]) -> AnnotatorNumbers:
    return AnnotatorNumbers(**{**vars(numbers), "flags": (*flags, *_speed_flag(numbers))})


def _measure(facts: Facts, name: str, votes: Sequence[VoteFact], agreed: AnnotatorAgreement | None) -> AnnotatorNumbers:
    """Return the numbers of one annotator, without flags."""
    judged = [vote for vote in votes if not vote.is_skip]
    timed = [vote for vote in judged if vote.dwell_ms is not None]
    gold, lesson = (_gold_counts(facts, votes, kind) for kind in ("gold", "calibration"))
    names = facts.task_votes.annotators
    own = facts.task_votes.annotator == (names.index(name) if name in names else -1)
    left, left_p = left_rate(facts.task_votes, own)
    return AnnotatorNumbers(
        name=name,
        is_active=any(one.is_active for one in facts.people if one.name == name),
        num_votes=int(own.sum()),
        num_skips=len(votes) - len(judged),
        votes_per_hour=_pace([vote.server_time for vote in votes]),
        median_seconds=median(vote.dwell_ms or 0 for vote in timed) / 1000 if timed else None,
        num_fast=sum(is_fast(vote.dwell_ms or 0, facts.lengths.get(vote.pair, 0)) for vote in timed),
        num_timed=len(timed),
        gold=wilson(*gold) if gold[1] else None,
        calibration=wilson(*lesson) if lesson[1] else None,
        others=agreed.others if agreed else None,
        left=left,
        left_p=left_p,
        consistency=agreed.consistency if agreed else None,
        ties=float((facts.task_votes.choice[own] == TIE).mean()) if own.any() else None,
        labels_changed=agreed.labels_changed if agreed else 0,
    )


def is_fast(dwell_ms: int, num_chars: int) -> bool:
    """Return True if a vote came faster than two responses of so many characters can be read."""
    return dwell_ms < max(FAST_MS, 1000 * num_chars / FAST_CHARS)


def _gold_counts(facts: Facts, votes: Sequence[VoteFact], kind: str) -> tuple[int, int]:
    """Return the number of right votes on pairs with a known answer, and of all; skips do not count."""
    used = [vote for vote in votes if facts.pairs[vote.pair].kind == kind and not vote.is_skip]
    choices = [("tie" if vote.choice == "both_bad" else vote.choice, facts.pairs[vote.pair].answer) for vote in used]
    return sum(choice == answer for choice, answer in choices), len(used)


def _pace(times: Sequence[float]) -> float | None:
    gaps = [later - before for before, later in pairwise(times)]
    at_work = [gap for gap in gaps if 0 <= gap <= BREAK]
    return 3600 * len(at_work) / sum(at_work) if at_work and sum(at_work) > 0 else None


def _flags(found: dict[str, AnnotatorNumbers]) -> dict[str, list[Note]]:
    """Return what stands out, by annotator, after Holm's correction over all tests."""
    tests = [test for name in sorted(found) for test in _tests(name, found)]
    flags: dict[str, list[Note]] = {}
    for test, p in zip(tests, holm([test.p for test in tests]), strict=True):
        if p < LEVEL:
            flags.setdefault(test.name, []).append(Note(f"{test.flag} ({_p(p)})", test.flag.code))
    return flags


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def _tests(name: str, found: dict[str, AnnotatorNumbers]) -> list[_Test]:
    """Return all tests of one annotator."""
    own, tests = found[name], []
    if own.left is not None and own.left_p is not None:
        side, share = ("left", own.left.estimate) if own.left.estimate >= 0.5 else ("right", 1 - own.left.estimate)
        text = f"chooses the {side} side in {percent(share)} of {own.left.n} votes"
        tests.append(_Test(name, own.left_p, Note(text, "side_bias")))
    for attribute, code, text in (
        ("gold", "gold", "is right on {share} of {n} pairs with a known answer, the others on {rest}"),
        ("consistency", "inconsistent", "repeats {share} of {n} repeated votes, the others {rest}"),
        (
            "others",
            "unlike_others",
            "agrees with most of the others on {share} of {n} pairs, they on {rest}",
        ),
    ):
        counts = {who: _counts(getattr(one, attribute)) for who, one in found.items()}
        tests += _below_others(name, counts, code, text)
    skips = {who: (one.num_votes, one.num_votes + one.num_skips) for who, one in found.items()}
    tests += _below_others(
        name, skips, "many_skips", "judges {share} of {n} pairs and skips the rest; others judge {rest}"
    )
    return tests


def _counts(share: Interval | None) -> tuple[int, int]:
    return (0, 0) if share is None else (round(share.estimate * share.n), share.n)


def _below_others(name: str, counts: dict[str, tuple[int, int]], code: str, text: str) -> list[_Test]:
    """Return the test that an annotator's share is below that of all others together (Fisher's exact, one-sided)."""
    from scipy.stats import fisher_exact

    hits, n = counts[name]
    rest_hits = sum(k for who, (k, _) in counts.items() if who != name)
    rest_n = sum(m for who, (_, m) in counts.items() if who != name)
    if not n or not rest_n:
        return []
    p = float(fisher_exact([[hits, n - hits], [rest_hits, rest_n - rest_hits]], alternative="less")[1])
    return [_Test(name, p, Note(text.format(share=percent(hits / n), n=n, rest=percent(rest_hits / rest_n)), code))]


def _speed_flag(numbers: AnnotatorNumbers) -> list[Note]:
    """Return the flag of many very fast votes. It is a rule, not a test."""
    if numbers.num_timed < MIN_TIMED or numbers.num_fast < FAST_SHARE * numbers.num_timed:
        return []
    text = f"{numbers.num_fast} of {numbers.num_timed} votes are very fast"
    return [Note(text, "fast_votes")]
