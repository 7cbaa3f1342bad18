"""Intervals against worked-out values, exact distributions and their own promise to cover the truth."""

import math

import numpy as np
import pytest

from support.errors import raises
from tiltlm.core.errors import ConfigError
from tiltlm.diagnostics import (
    Interval,
    bootstrap,
    bootstrap_mean,
    mean_of_repetitions,
    paired_difference,
    unit_means,
    wilson,
)
from tiltlm.estimates.intervals import holm


def test_unit_means_average_within_units_first():
    assert unit_means([1, 0, 0, 1], ["b", "a", "a", "a"]).tolist() == pytest.approx([1 / 3, 1.0])
    assert unit_means([3.0, 1.0]).tolist() == [3.0, 1.0]


@pytest.mark.parametrize(
    ("values", "units", "code", "key"),
    [
        ([], None, "wrong_shape", "values"),
        ([[1.0]], None, "wrong_shape", "values"),
        ([1.0, 2.0], [0], "unequal_lengths", "units"),
    ],
)
def test_unit_means_refuse_what_has_no_mean(values, units, code, key):
    with raises(ConfigError, code, key=key):
        unit_means(values, units)


def test_bootstrap_of_two_units_has_the_exact_binomial_quantiles():
    # Resampling {0, 1} twice gives 0, ½, 1 with probabilities ¼, ½, ¼.
    values = np.array([0.0, 1.0])
    interval = bootstrap_mean(values, level=0.4)  # quantiles .3 and .7 both lie in the middle atom
    assert (interval.estimate, interval.low, interval.high, interval.n) == (0.5, 0.5, 0.5, 2)
    wide = bootstrap_mean(values, level=0.6)  # quantiles .2 and .8 lie in the outer atoms
    assert (wide.low, wide.high) == (0.0, 1.0)


def test_bootstrap_of_a_mean_has_the_normal_width():
    values = np.random.default_rng(3).normal(size=400)
    interval = bootstrap_mean(values)
    error = values.std() / math.sqrt(400)
    assert interval.estimate == pytest.approx(values.mean())
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * error, rel=0.05)


def test_resampling_units_covers_the_truth_where_resampling_rows_does_not():
    rng = np.random.default_rng(0)
    covered = {"units": 0, "rows": 0}
    units = np.repeat(np.arange(40), 10)
    for seed in range(100):
        values = np.repeat(rng.normal(size=40), 10) + 0.1 * rng.normal(size=400)
        for name, groups in (("units", units), ("rows", None)):
            interval = bootstrap_mean(values, groups, level=0.9, seed=seed, resamples=300)
            covered[name] += interval.low <= 0 <= interval.high
    assert covered["units"] >= 80
    assert covered["rows"] <= 60


def test_bootstrap_is_seeded_and_independent_of_chunks():
    values = np.random.default_rng(1).normal(size=3_000)
    first, again, other = (bootstrap_mean(values, seed=s, resamples=1_500) for s in (5, 5, 6))
    assert first == again
    assert first != other  # 1,500 × 3,000 values are more than one chunk holds


def test_a_single_unit_leaves_the_spread_unknown():
    interval = bootstrap_mean([1.0, 3.0], ["a", "a"])
    assert interval.estimate == 2.0
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


def test_any_statistic_can_be_bootstrapped():
    values = np.arange(101.0)
    interval = bootstrap(lambda draw: np.median(values[draw], axis=1), len(values), resamples=400)
    assert interval.estimate == 50.0
    assert interval.low < 50.0 < interval.high


def test_paired_difference_cancels_what_both_share():
    shared = np.random.default_rng(2).normal(scale=100, size=200)
    interval = paired_difference(shared + 1.0, shared)
    assert interval.estimate == pytest.approx(1.0)
    assert interval.low == pytest.approx(1.0)
    with raises(ConfigError, "other_rows", mentions=["(1,)", "(2,)"]):
        paired_difference([1.0], [1.0, 2.0])


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(0, 10, 0.0, 0.27753), (5, 10, 0.23659, 0.76341), (10, 10, 0.72247, 1.0), (81, 263, 0.25525, 0.36621)],
)
def test_wilson_against_published_values(successes, n, low, high):
    # 81 of 263: Newcombe 1998, table I, method 3 prints 0.2553, 0.3662; the others by hand with z = 1.959964.
    interval = wilson(successes, n)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)


def test_wilson_ends_exactly_at_0_and_1():
    """A low end of 1e-19 would be shown with many zeros."""
    for n in range(1, 300):
        assert wilson(0, n).low == 0
        assert wilson(n, n).high == 1


@pytest.mark.parametrize(
    ("successes", "n", "level", "key"),
    [(1, 0, 0.95, "n"), (-1, 3, 0.95, "successes"), (4, 3, 0.95, "successes"), (1, 3, 1.0, "level")],
)
def test_wilson_refuses_no_shares(successes, n, level, key):
    with raises(ConfigError, "out_of_range", key=key):
        wilson(successes, n, level)


@pytest.mark.parametrize("wrong", [{"level": 0.0}, {"resamples": 0}])
def test_bootstrap_refuses_impossible_settings(wrong):
    with raises(ConfigError, "out_of_range", key=next(iter(wrong))):
        bootstrap_mean([1.0, 2.0], **wrong)


def test_an_interval_reads_as_text():
    assert str(Interval(0.5, 0.25, 0.75, 0.95, 12)) == "0.5 [0.25, 0.75]"


def test_repetitions_have_students_interval():
    """1, 2, 4: mean 7/3, s² = 7/3, and t is 4.302653 for 2 degrees of freedom (a printed table)."""
    found = mean_of_repetitions([1.0, 2.0, 4.0])
    assert found.estimate == pytest.approx(7 / 3)
    assert found.high - found.estimate == pytest.approx(4.302653 * math.sqrt(7 / 3 / 3), rel=1e-6)
    assert found.estimate - found.low == pytest.approx(found.high - found.estimate)
    assert math.isnan(mean_of_repetitions([1.0]).low)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
    with raises(ConfigError, code="out_of_range"):
        holm([1.5])
