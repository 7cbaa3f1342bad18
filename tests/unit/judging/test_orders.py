"""Both orders become one probability; what they disagree on, and failures, are never a preference."""

import math
from dataclasses import replace

import pytest

from support.judges import FakeComparer, hard, soft
from tiltlm.judging import PairItem, both_orders
from tiltlm.judging.orders import count_status, logit, one_order, reconcile, sigmoid, single

PAIR = PairItem("p", "first", "second")


def reconciled(first, second):
    return reconcile(first, replace(second, order="ba"))


def test_the_probability_is_the_mean_of_both_logits():
    """.8 for a with a first, .6 for a with b first: logits 1.386294 and .405465, mean .895880."""
    found = reconciled(soft(0.8), soft(0.4))
    assert found.p == pytest.approx(0.710102, abs=5e-7)
    assert found.status == "ok"
    assert found.bias == pytest.approx((math.log(4) - math.log(1.5)) / 2)


@pytest.mark.parametrize(
    ("first", "second", "p", "status"),
    [
        ("left", "right", 1.0, "ok"),
        ("left_strong", "right", 1.0, "ok"),
        ("right", "left_strong", 0.0, "ok"),
        ("tie", "tie", 0.5, "tie"),
        ("left", "tie", 0.75, "ok"),
        ("tie", "left", 0.25, "ok"),
        ("left", "left", None, "inconsistent"),
        ("right", "right_strong", None, "inconsistent"),
        ("both_bad", "both_bad", None, "both_bad"),
        ("both_bad", "left", None, "inconsistent"),
        ("error", "left", None, "error"),
        ("both_bad", "error", None, "error"),
    ],
)
def test_verdicts_without_probability_are_votes(first, second, p, status):
    found = reconciled(hard(first), hard(second))
    assert (found.p, found.status) == (p, status)


def test_an_error_is_never_a_half():
    found = reconciled(hard("error", "no reply"), soft(0.5))
    assert found.for_training is found.for_evaluation is None
    bad = reconciled(hard("both_bad"), hard("both_bad"))
    assert bad.for_training is bad.for_evaluation is None


def test_a_contradiction_is_a_half_in_a_win_rate_and_no_label():
    found = reconciled(hard("left"), hard("left"))
    assert (found.for_training, found.for_evaluation) == (None, 0.5)


@pytest.mark.parametrize(
    ("first", "second", "status"),
    [
        (0.9, 0.88, "inconsistent"),  # both prefer what is shown first, p = .525
        (0.9, 0.7, "ok"),  # likewise, but p = .66: the preference is stronger than the position
        (0.51, 0.48, "ok"),  # both prefer a, weakly
        (0.5, 0.5, "tie"),
        (0.7, 0.7, "inconsistent"),  # exactly ½, from a contradiction
    ],
)
def test_two_orders_that_disagree_near_a_half_are_inconsistent(first, second, status):
    found = reconciled(soft(first), soft(second))
    assert found.status == status
    assert found.p is not None


@pytest.mark.parametrize("p", [0.0, 1e-12, 0.1, 0.3, 0.5, 0.77, 1.0])
@pytest.mark.parametrize("q", [0.0, 0.2, 0.6, 1 - 1e-12, 1.0])
def test_exchanging_the_responses_mirrors_the_probability_exactly(p, q):
    one, other = reconciled(soft(p), soft(q)), reconciled(soft(q), soft(p))
    assert other.p == 1 - one.p
    assert other.status == one.status
    assert other.bias == one.bias


def test_certainty_is_finite():
    assert math.isfinite(logit(0.0))
    assert reconciled(soft(1.0), soft(0.0)).p == pytest.approx(1.0, abs=1e-8)


@pytest.mark.parametrize("x", [0.0, 1e-17, 0.3, 2.0, 40.0, 800.0])
def test_the_logistic_function_is_exactly_symmetric(x):
    assert sigmoid(-x) == 1 - sigmoid(x)


def test_each_pair_is_shown_in_both_orders():
    judge = FakeComparer(lambda pair: soft(0.8 if pair.a == "first" else 0.4))
    (found,) = both_orders(judge, [PAIR])
    assert [(shown.a, shown.b) for shown in judge.asked] == [("first", "second"), ("second", "first")]
    assert [verdict.order for verdict in found.verdicts] == ["ab", "ba"]
    assert found.p == pytest.approx(0.710102, abs=5e-7)
    assert [verdict.p_a for verdict in found.verdicts] == pytest.approx([0.8, 0.6])


def test_one_order_does_not_depend_on_the_names_of_the_responses():
    judge = FakeComparer(lambda pair: soft(0.9 if pair.a < pair.b else 0.2))
    pairs = [PairItem(f"p{i}", "x", "y") for i in range(40)]
    direct, swapped = list(one_order(judge, pairs)), list(one_order(judge, [pair.swapped for pair in pairs]))
    assert [a.p for a in direct] == [pytest.approx(1 - b.p) for b in swapped]
    assert {verdict.order for found in direct for verdict in found.verdicts} == {"ab", "ba"}


def test_a_single_verdict_keeps_its_order():
    assert single(replace(soft(0.9), order="ba")).p == pytest.approx(0.1)
    assert single(hard("both_bad")).status == "both_bad"
    assert single(hard("error")).p is None


def test_statuses_are_counted_apart():
    found = [reconciled(hard(a), hard(b)) for a, b in [("left", "right"), ("left", "left"), ("error", "tie")]]
    assert count_status(found) == {"ok": 1, "tie": 0, "inconsistent": 1, "both_bad": 0, "error": 1}
