"""A judge has one role, and is audited before it makes training data."""

import pytest

from support.errors import raises
from support.judges import FakeScorer, length
from tiltlm.config.judges import read_judge
from tiltlm.core import ConfigError
from tiltlm.judging import JudgeSettings, check_roles, check_trains


def test_one_judge_has_one_role():
    check_roles(
        [FakeScorer(length, "a", "train"), FakeScorer(length, "b", "held_out"), FakeScorer(length, "a", "train")]
    )
    with raises(ConfigError, "same_judge", key="judge"):
        check_roles([FakeScorer(length, "a", "train"), FakeScorer(length, "a", "held_out")])


def test_training_data_need_an_audit_and_both_orders():
    judge = FakeScorer(length, "a", "train")
    with raises(ConfigError, "no_audit", key="judge.audit"):
        check_trains(JudgeSettings("length"), judge, unaudited=False)
    check_trains(JudgeSettings("length"), judge, unaudited=True)
    check_trains(JudgeSettings("length", audit="audit.json"), judge, unaudited=False)
    with raises(ConfigError, "one_order", key="judge.both_orders"):
        check_trains(JudgeSettings("length", both_orders=False), judge, unaudited=True)


@pytest.mark.parametrize("kind", ["gold", "exact", "numeric", "regex:a", "tests"])
def test_a_rule_needs_no_audit(kind):
    check_trains(read_judge(kind), FakeScorer(length, "a", "train"), unaudited=False)
