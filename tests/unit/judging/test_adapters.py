"""Scores as comparisons, and comparisons as win rates."""

import math

import numpy as np
import pytest

from support.errors import raises
from support.judges import FakeComparer, FakeScorer, hard, length, soft
from tiltlm.core import ConfigError, DataError
from tiltlm.judging import Item, PairItem, Score, both_orders, compared, ranked

A, B = "short", "much longer"


def test_the_probability_is_the_logistic_function_of_the_difference():
    (found,) = both_orders(compared(FakeScorer(length), scale=3.0), [PairItem("p", B, A)])
    assert found.p == pytest.approx(1 / (1 + math.exp(-6 / 3)))
    assert found.bias == 0


def test_equal_scores_are_a_tie_of_exactly_a_half():
    (found,) = both_orders(compared(FakeScorer(length), 0.1), [PairItem("p", "one", "two")])
    assert (found.p, found.status) == (0.5, "tie")


def test_a_failed_score_is_an_error():
    judge = compared(FakeScorer(lambda item: Score(None, error="no") if item.response == A else 1.0), 1.0)
    (found,) = both_orders(judge, [PairItem("p", A, B)])
    assert (found.p, found.status) == (None, "error")
    assert found.verdicts[0].error == "no"


def test_each_response_is_scored_once_and_paid_once():
    scorer = FakeScorer(lambda item: Score(length(item), cost=1.0))
    pairs = [PairItem("p", a, b) for a, b in [("a", "bb"), ("bb", "ccc"), ("a", "ccc")]]
    found = both_orders(compared(scorer, 1.0), pairs)
    assert len(scorer.asked) == 3
    assert sum(verdict.cost for result in found for verdict in result.verdicts) == 3


def test_the_same_text_to_another_prompt_or_row_is_another_response():
    scorer = FakeScorer(length)
    scorer.reads = ("answer",)
    pairs = [PairItem("p", A, B, {"answer": 1}), PairItem("q", A, B, {"answer": 1}), PairItem("p", A, B, {"answer": 2})]
    list(compared(scorer, 1.0).compare(pairs))
    assert len(scorer.asked) == 6


def test_the_scale_is_part_of_the_digest():
    scorer = FakeScorer(length)
    assert compared(scorer, 1.0).digest != compared(scorer, 2.0).digest
    with raises(ConfigError, "not_positive", key="scale"):
        compared(scorer, 0.0)
    scorer.scale = 4.0
    assert compared(scorer).scale == 4.0


def test_win_rates_of_bradley_terry_scores():
    """Scores 0, 1, 2: the mean of ½ and the probabilities against the two others."""
    scorer = FakeScorer(lambda item: float(item.response))
    rates = ranked(compared(scorer, 1.0)).rates([Item("p", text) for text in "012"])
    np.testing.assert_allclose(rates, [0.296048, 0.5, 0.703952], atol=5e-7)


def test_a_contradiction_counts_a_half_in_a_rate_and_an_error_stops():
    items = [Item("p", "x"), Item("p", "y")]
    assert list(ranked(FakeComparer(lambda _: hard("left"))).rates(items)) == [0.5, 0.5]
    with raises(DataError, "judge_error", mentions=["broken"]):
        ranked(FakeComparer(lambda _: hard("error", "broken"))).rates(items)
    with raises(DataError, "other_rows"):
        ranked(FakeComparer(lambda _: soft(0.5))).rates([Item("p", "x"), Item("q", "y")])
