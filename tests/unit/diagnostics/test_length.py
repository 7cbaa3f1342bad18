"""The length rule and its accuracy beside that of a policy."""

import numpy as np
import pytest

from support.errors import raises
from tiltlm.core.errors import ConfigError
from tiltlm.diagnostics import LengthRule, measure_length_bias

UNITS = np.arange(6)
CHOSEN = np.array([5, 9, 4, 7, 3, 8])
REJECTED = np.array([4, 6, 6, 7, 1, 2])  # longer, longer, shorter, equal, longer, longer


def test_the_rule_counts_equal_lengths_as_half():
    longer, shorter = LengthRule("longer"), LengthRule("shorter")
    assert longer.correct(CHOSEN, REJECTED).tolist() == [1, 1, 0, 0.5, 1, 1]
    assert (longer.correct(CHOSEN, REJECTED) + shorter.correct(CHOSEN, REJECTED)).tolist() == [1] * 6


def test_the_rule_is_fitted_in_the_direction_that_is_right_more_often():
    assert LengthRule.fit(CHOSEN, REJECTED) == LengthRule("longer")
    assert LengthRule.fit(REJECTED, CHOSEN) == LengthRule("shorter")
    # One example with many comparisons has one vote: two short-winning examples outvote it.
    assert LengthRule.fit([2, 2, 2, 1, 1], [1, 1, 1, 2, 2], units=[0, 0, 0, 1, 2]) == LengthRule("shorter")


def test_rule_and_policy_side_by_side():
    margins = np.array([1.0, 2.0, 0.5, 0.0, 1.0, 3.0])  # the policy is right five times and has one tie
    result = measure_length_bias(LengthRule("longer"), CHOSEN, REJECTED, margins, UNITS)
    assert result.rule_accuracy.estimate == pytest.approx(4.5 / 6)
    assert result.advantage.estimate == pytest.approx(5.5 / 6 - 4.5 / 6)
    assert result.rule_accuracy.n == 6


def test_a_policy_that_only_counts_tokens_is_seen():
    rng = np.random.default_rng(0)
    chosen, rejected = rng.integers(5, 50, 200), rng.integers(5, 50, 200)
    result = measure_length_bias(LengthRule("longer"), chosen, rejected, 0.1 * (chosen - rejected), np.arange(200))
    assert (result.advantage.low, result.advantage.high) == (0.0, 0.0)


def test_rows_of_one_example_share_its_vote():
    result = measure_length_bias(LengthRule("longer"), [2, 2, 1], [1, 1, 2], [1.0, 1.0, 1.0], [0, 0, 1])
    assert result.rule_accuracy.estimate == 0.5
    assert result.rule_accuracy.n == 2


def test_ragged_input_is_refused():
    with raises(ConfigError, "unequal_lengths"):
        measure_length_bias(LengthRule("longer"), [1, 2], [1], [0.0, 0.0], [0, 1])
