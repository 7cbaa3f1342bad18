"""What lengths alone predict, beside what a policy predicts."""

import math

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
    margins = np.array([1.0, 2.0, 0.5, 0.0, -1.0, 3.0])
    result = measure_length_bias(LengthRule("longer"), CHOSEN, REJECTED, margins, UNITS)
    assert result.rule_accuracy.estimate == pytest.approx(4.5 / 6)
    assert result.policy_accuracy.estimate == pytest.approx(4.5 / 6)
    assert result.advantage.estimate == pytest.approx(0.0)
    assert result.longer_chosen.estimate == pytest.approx(4.5 / 6)
    expected = np.corrcoef(CHOSEN - REJECTED, margins)[0, 1]
    assert result.correlation.estimate == pytest.approx(expected)
    assert result.correlation.low <= expected <= result.correlation.high
    assert result.rule_accuracy.n == 6


def test_a_policy_that_only_counts_tokens_is_seen():
    rng = np.random.default_rng(0)
    chosen, rejected = rng.integers(5, 50, 200), rng.integers(5, 50, 200)
    result = measure_length_bias(LengthRule("longer"), chosen, rejected, 0.1 * (chosen - rejected), np.arange(200))
    assert result.correlation.estimate == pytest.approx(1.0)
    assert (result.advantage.low, result.advantage.high) == (0.0, 0.0)


def test_rows_of_one_example_share_its_vote():
    result = measure_length_bias(LengthRule("longer"), [2, 2, 1], [1, 1, 2], [1.0, 1.0, 1.0], [0, 0, 1])
    assert result.rule_accuracy.estimate == 0.5
    assert result.rule_accuracy.n == 2


def test_the_correlation_gives_every_example_one_vote():
    gaps, margins = np.array([4.0, 5.0, 6.0, -1.0, 2.0]), np.array([1.0, 3.0, 1.0, 0.5, -2.0])
    weights = np.array([1 / 3, 1 / 3, 1 / 3, 1.0, 1.0])
    cov = np.cov(gaps, margins, aweights=weights, ddof=0)
    result = measure_length_bias(LengthRule("longer"), gaps + 9, np.full(5, 9), margins, [0, 0, 0, 1, 2])
    assert result.correlation.estimate == pytest.approx(cov[0, 1] / np.sqrt(cov[0, 0] * cov[1, 1]))


def test_no_variation_has_no_correlation():
    result = measure_length_bias(LengthRule("longer"), [3, 4], [3, 4], [1.0, 2.0], [0, 1])
    assert math.isnan(result.correlation.estimate)
    assert math.isnan(result.correlation.low)


def test_ragged_input_is_refused():
    with raises(ConfigError, "unequal_lengths"):
        measure_length_bias(LengthRule("longer"), [1, 2], [1], [0.0, 0.0], [0, 1])
