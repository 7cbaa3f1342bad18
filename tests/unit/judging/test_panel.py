"""Several judges as one."""

import pytest

from support.errors import raises
from support.judges import FakeComparer, FakeScorer, hard, length, soft
from tiltlm.core import ConfigError
from tiltlm.judging import PairItem, Panel, both_orders
from tiltlm.judging.orders import logit, sigmoid

PAIR = PairItem("p", "x", "y")


def panel(*verdicts, combine="mean"):
    return Panel([FakeComparer(lambda _, v=v: v, f"judge {i}") for i, v in enumerate(verdicts)], combine)


def verdict(*verdicts, combine="mean"):
    (found,) = panel(*verdicts, combine=combine).compare([PAIR])
    return found


def test_the_mean_is_of_logits():
    found = verdict(soft(0.8), soft(0.6))
    assert found.p_left == pytest.approx(0.710102, abs=5e-7)
    assert found.disagreement == pytest.approx(0.2)


def test_votes_are_averaged_where_a_member_has_no_probability():
    assert verdict(soft(0.9), hard("right"), hard("left_strong")).p_left == pytest.approx(2 / 3)


@pytest.mark.parametrize(("members", "p"), [((0.8, 0.6), 0.6), ((0.2, 0.4), 0.4), ((0.8, 0.4), 0.5), ((0.9, 0.5), 0.5)])
def test_the_worst_case_is_the_least_certain_member_and_a_tie_if_they_disagree(members, p):
    assert verdict(*map(soft, members), combine="worst").p_left == p


def test_a_panel_never_shrinks():
    found = verdict(soft(0.9), hard("error", "no reply"))
    assert found.outcome == "error"
    assert "judge 1: no reply" in found.error
    assert verdict(hard("both_bad"), hard("both_bad")).outcome == "both_bad"
    assert verdict(hard("both_bad"), soft(0.9)).outcome == "error"


def test_scorers_compare_by_their_own_scale():
    scorer = FakeScorer(length, "length")
    scorer.scale = 2.0
    (found,) = Panel([scorer, FakeComparer(lambda _: soft(0.5), "other")]).compare([PairItem("p", "xxx", "x")])
    assert found.p_left == pytest.approx(sigmoid((1.0 + logit(0.5)) / 2))


@pytest.mark.parametrize("combine", ["mean", "worst"])
def test_exchanging_the_responses_mirrors_exactly(combine):
    judge = Panel(
        [
            FakeScorer(lambda item: len(item.response) / 7, "a"),
            FakeScorer(lambda item: item.response.count("x") / 3, "b"),
        ],
        combine,
    )
    one, other = both_orders(judge, [PairItem("p", "xxyx", "zz"), PairItem("p", "zz", "xxyx")])
    assert one.p == 1 - other.p


def test_a_panel_needs_two_different_judges_and_its_digest_names_them():
    with raises(ConfigError, "too_few_judges", key="judge.judges"):
        Panel([FakeScorer(length, "one")])
    with raises(ConfigError, "too_few_judges", key="judge.judges"):
        Panel([FakeScorer(length, "one"), FakeScorer(length, "one")])
    a, b, c = (FakeScorer(length, name) for name in "abc")
    assert Panel([a, b]).digest == Panel([b, a]).digest
    assert len({Panel([a, b]).digest, Panel([a, c]).digest, Panel([a, b], "worst").digest}) == 3
