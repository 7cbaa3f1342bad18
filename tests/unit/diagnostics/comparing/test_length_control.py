"""Length-controlled win rate: antisymmetric, ½ for a system against itself, and an interval that covers."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from support.errors import raises
from tiltlm.core import ConfigError
from tiltlm.diagnostics.comparing.length_control import RIDGE, length_control, why_no_length_control


def world(n: int, rng: np.random.Generator, constant: float = 0.4, slope: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Draw binary verdicts that depend on length; the win rate at equal length is σ(constant)."""
    gaps = rng.normal(120, 200, n)
    return (rng.random(n) < expit(constant + slope * np.tanh(gaps / gaps.std()))).astype(float), gaps


def test_the_fit_is_the_minimum_of_the_penalised_likelihood():
    values, gaps = world(300, np.random.default_rng(0))
    length = np.tanh(gaps / gaps.std())

    def loss(theta):
        eta = theta[0] + theta[1] * length
        return np.sum(np.logaddexp(0, eta) - values * eta) + 0.5 * np.dot(RIDGE, theta**2)

    best = minimize(loss, [0, 0], method="BFGS", options={"gtol": 1e-9}).x
    found = length_control(values, gaps, resamples=50)
    assert found.rate.estimate == pytest.approx(expit(best[0]), abs=1e-6)
    assert found.coefficient.estimate == pytest.approx(best[1], abs=1e-5)


def test_length_alone_makes_no_better_system():
    """Verdicts by length only: the raw rate is far from ½, the rate at equal length is not."""
    values, gaps = world(4000, np.random.default_rng(1), constant=0.0, slope=3.0)
    assert values.mean() > 0.6
    found = length_control(values, gaps, resamples=300)
    assert found.rate.low < 0.5 < found.rate.high
    assert found.coefficient.low > 2


def test_without_an_effect_of_length_it_is_the_raw_rate():
    rng = np.random.default_rng(2)
    values, gaps = (rng.random(5000) < 0.7).astype(float), rng.normal(0, 100, 5000)
    assert length_control(values, gaps, resamples=20).rate.estimate == pytest.approx(values.mean(), abs=2e-3)


def test_exchanging_the_systems_mirrors_every_number_exactly():
    values, gaps = world(150, np.random.default_rng(3))
    a, b = length_control(values, gaps, resamples=200), length_control(1 - values, -gaps, resamples=200)
    assert (b.rate.estimate, b.rate.low, b.rate.high) == (1 - a.rate.estimate, 1 - a.rate.high, 1 - a.rate.low)
    assert b.coefficient == a.coefficient
    assert (b.mean_gap, b.sd_gap) == (-a.mean_gap, a.sd_gap)


def test_a_system_against_itself_is_a_half():
    found = length_control(np.full(120, 0.5), np.zeros(120), resamples=50)
    assert (found.rate.estimate, found.rate.low, found.rate.high) == (0.5, 0.5, 0.5)


@pytest.mark.slow
def test_interval_covers_the_truth_as_often_as_it_says():
    """500 repeats; AlpacaEval's standard error covers 15 to 33 % in such a world."""
    rng, truth, hits = np.random.default_rng(4), expit(0.4), 0
    for _ in range(500):
        found = length_control(*world(200, rng), resamples=200)
        hits += found.rate.low <= truth <= found.rate.high
    assert 0.92 <= hits / 500 <= 0.98


def test_few_prompts_and_lengths_that_do_not_overlap_are_refused():
    values = np.full(99, 0.5)
    with raises(ConfigError, code="too_few_prompts"):
        length_control(values, np.arange(99.0))
    gaps = np.random.default_rng(0).normal(160, 100, 400)
    with raises(ConfigError, code="poor_overlap"):
        length_control(np.full(400, 0.5), gaps)
    assert why_no_length_control(gaps - 20) is None
    with raises(ConfigError, code="unequal_lengths"):
        length_control(values, np.arange(100.0))
