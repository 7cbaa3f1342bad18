"""Judged contests: ties, contradictions, failures apart; nothing depends on which system is called the first."""

from dataclasses import replace

import pytest

from support.answered import Lengths, Says, row, system
from support.errors import raises
from tiltlm.core import ConfigError
from tiltlm.evaluation.answers.contests import hold_contests, pairs_of
from tiltlm.evaluation.answers.systems import System, align


def contest(judge, a="good", b="fine", **options):
    """Judge two answers to one prompt."""
    (found,) = hold_contests(align([system("a", {"p": a}), system("b", {"p": b})]), judge, **options)
    return found


def counted(found) -> dict[str, int]:
    return {name: count for name, count in found.counts.items() if count}


def test_scores_compare_all_pairs_of_answers_and_are_asked_once():
    judge = Lengths()
    found = contest(judge, ("aaa", "a"), ("bb", "b", "bad"))
    # 3 > 2, 3 > 1, 1 < 2, 1 = 1; nothing is said about `bad`
    assert counted(found) == {"win": 2, "loss": 1, "tie": 1, "error": 2}
    assert found.value == pytest.approx((1 + 1 + 0 + 0.5) / 4, abs=1e-11)
    assert len(judge.asked) == 5
    assert found.scores is None
    assert found.pair.margin == 2
    assert found.pair.answers == ("aaa", "b")


def test_equal_texts_are_a_tie_and_nobody_is_asked():
    judge = Says(lambda a, b: "left")
    found = contest(judge, "same", "same")
    assert (found.value, counted(found), judge.asked) == (0.5, {"identical": 1}, [])


def test_both_orders_are_shown():
    judge = Says(lambda a, b: 0.8 if a == "good" else 0.4)
    found = contest(judge)
    assert {(pair.a, pair.b) for pair in judge.asked} == {("good", "fine"), ("fine", "good")}
    assert found.value == pytest.approx(0.710102, abs=1e-6)  # .8 with it first, .6 with it second
    assert [said.shown_first for said in found.pair.said] == ["b", "a"]  # "fine" < "good"
    assert [said.p_left for said in found.pair.said] == [0.4, 0.8]


@pytest.mark.parametrize(
    ("verdict", "value", "outcome"),
    [
        (lambda a, b: "left" if a == "good" else "right", 1.0, "win"),
        (lambda a, b: "right" if a == "good" else "left", 0.0, "loss"),
        (lambda a, b: "tie", 0.5, "tie"),
        (lambda a, b: "left", 0.5, "inconsistent"),
        (lambda a, b: "both_bad", None, "both_bad"),
        (lambda a, b: "error", None, "error"),
        (lambda a, b: "error" if a == "good" else "left", None, "error"),
    ],
)
def test_every_outcome_is_counted_apart(verdict, value, outcome):
    found = contest(Says(verdict))
    assert found.value == value
    assert counted(found) == {outcome: 1}


def test_a_failure_is_no_tie():
    """Of two pairs one fails: the mean is that of the other one."""
    judge = Says(lambda a, b: "error" if "x" in a + b else "left" if a == "good" else "right")
    found = contest(judge, ("good", "x"), ("fine", "y"))
    assert found.value == 1.0
    assert counted(found) == {"win": 1, "error": 1}


@pytest.mark.parametrize(
    "judge", [Lengths(), Says(lambda a, b: (len(a) + 0.37) / (len(a) + len(b) + 0.6)), Says(lambda a, b: "left")]
)
def test_exchanging_the_systems_mirrors_every_contest_exactly(judge):
    answers = [
        {"p": ("abc", "de"), "q": ("f", "ghij"), "r": ("x", "y")},
        {"p": ("k", "lmno"), "q": ("pq", "f"), "r": ("x", "zz")},
    ]
    one = hold_contests(align([system("a", answers[0]), system("b", answers[1])]), judge)
    two = hold_contests(align([system("b", answers[1]), system("a", answers[0])]), judge)
    for a, b in zip(one, two, strict=True):
        assert (b.first, b.second, b.prompt) == (a.second, a.first, a.prompt)
        assert b.value == 1 - a.value
        assert b.gap == -a.gap
        assert {**b.counts, "win": b.counts["loss"], "loss": b.counts["win"]} == a.counts
        if a.pair is None:
            assert b.pair is None
        else:
            assert (b.pair.answers, b.pair.margin) == (a.pair.answers[::-1], -a.pair.margin)


def test_length_and_category_come_from_the_answers():
    a = System("a", (row("p", "abcd", "ab", category="easy"),))
    found = hold_contests(align([a, system("b", {"p": ("x", "y")})]), Lengths())[0]
    assert (found.gap, found.category) == (2.0, "easy")


def test_a_baseline_meets_all_others():
    assert pairs_of(["a", "b", "c"], None) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert pairs_of(["a", "b", "c"], "b") == [("a", "b"), ("c", "b")]
    with raises(ConfigError, code="unknown_name", key="baseline"):
        pairs_of(["a"], "z")


def test_progress_counts_judgements():
    seen = []
    contest(Says(lambda a, b: "tie"), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 1)]


def test_a_cut_answer_is_marked():
    a = System("a", (replace(row("p", "long"), ended=(False,)),))
    judge = Says(lambda a, b: "tie")
    hold_contests(align([a, system("b", {"p": "short"})]), judge)
    assert {(pair.a, pair.ended) for pair in judge.asked} == {("long", (False, True)), ("short", (True, False))}
