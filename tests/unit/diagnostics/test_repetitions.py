"""Means over seeds and prompts: by hand, in limits, and in simulations of their coverage."""

import numpy as np
import pytest
from scipy import stats

from support.errors import raises
from tiltlm.core import ConfigError
from tiltlm.diagnostics.repetitions import crossed_mean


def test_one_seed_is_students_interval_over_prompts():
    values = np.random.default_rng(0).normal(1, 2, size=(1, 12))
    found, p = crossed_mean(values)
    low, high = stats.t.interval(0.95, 11, values.mean(), stats.sem(values[0]))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert p == pytest.approx(stats.ttest_1samp(values[0], 0).pvalue)


def test_prompts_that_agree_leave_the_seeds():
    """Without prompt effects and noise it is Student's interval over seeds."""
    seeds = np.array([1.0, 2.0, 4.0])
    found, p = crossed_mean(np.repeat(seeds[:, None], 50, axis=1))
    low, high = stats.t.interval(0.95, 2, seeds.mean(), stats.sem(seeds))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert p == pytest.approx(stats.ttest_1samp(seeds, 0).pvalue)


def test_seeds_that_agree_leave_the_prompts():
    prompts = np.random.default_rng(1).normal(size=40)
    found, _ = crossed_mean(np.tile(prompts, (3, 1)))
    low, high = stats.t.interval(0.95, 39, prompts.mean(), stats.sem(prompts))
    assert (found.low, found.high) == pytest.approx((low, high))


def test_constant_tables():
    assert crossed_mean(np.zeros((3, 5)))[1] == 1.0
    assert crossed_mean(np.ones((3, 5)))[1] == 0.0
    with raises(ConfigError, "wrong_shape", key="values"):
        crossed_mean([1.0, 2.0])


@pytest.mark.parametrize(
    ("of_seeds", "of_prompts", "noise", "highest"),
    [(0.3, 1.0, 1.0, 0.98), (1.0, 0.5, 0.5, 0.98), (0.05, 0.2, 2.0, 0.99)],  # it is too wide where the rest is all
)
def test_intervals_cover(of_seeds, of_prompts, noise, highest):
    """Three seeds, 40 prompts, 1,000 repeats: the 95 % interval holds the mean, and p is below .05 outside it."""
    rng = np.random.default_rng(2)
    hits = rejected = 0
    for _ in range(1000):
        table = of_seeds * rng.normal(size=(3, 1)) + of_prompts * rng.normal(size=40) + noise * rng.normal(size=(3, 40))
        found, p = crossed_mean(table)
        hits += found.low <= 0 <= found.high
        rejected += p < 0.05
    assert 0.92 <= hits / 1000 <= highest
    assert rejected == 1000 - hits
