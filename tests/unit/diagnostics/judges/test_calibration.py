"""The slope is the maximum of the likelihood, its interval covers, and probabilities become right."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from tiltlm.diagnostics.judges import calibrate, calibration_error
from tiltlm.diagnostics.judges.calibration import PSEUDO_PAIRS


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def made(rng, n, slope, spread=2.0):
    gaps = rng.normal(0, spread, n)
    return gaps, (rng.random(n) < sigmoid(slope * gaps)).astype(float)


def test_the_slope_maximises_the_likelihood():
    gaps, labels = made(np.random.default_rng(0), 300, 0.5)

    def loss(slope):
        return np.sum(np.logaddexp(0, -slope * gaps) * labels + np.logaddexp(0, slope * gaps) * (1 - labels))

    fit = calibrate(gaps, labels, are_logits=False, resamples=50)
    assert fit.slope.estimate == pytest.approx(minimize_scalar(loss, tol=1e-12).x, rel=1e-5)
    assert fit.scale == pytest.approx(1 / fit.slope.estimate)


def test_logits_are_shrunk_to_a_slope_of_one():
    gaps, labels = made(np.random.default_rng(0), 40, 0.3)

    def loss(slope):
        own = np.logaddexp(0, -slope * gaps) * labels + np.logaddexp(0, slope * gaps) * (1 - labels)
        p = sigmoid(gaps)
        prior = np.logaddexp(0, -slope * gaps) * p + np.logaddexp(0, slope * gaps) * (1 - p)
        return np.sum(own + PSEUDO_PAIRS / 40 * prior)

    shrunk = calibrate(gaps, labels, are_logits=True, resamples=50).slope.estimate
    assert shrunk == pytest.approx(minimize_scalar(loss, tol=1e-12).x, rel=1e-5)
    free = calibrate(gaps, labels, are_logits=False, resamples=50).slope.estimate
    assert free < shrunk < 1
    assert calibrate([1.0, 2.0], [1, 1], are_logits=True, resamples=50).slope.estimate < np.inf


def test_units_and_sides_do_not_matter():
    gaps, labels = made(np.random.default_rng(1), 200, 1.0)
    fit = calibrate(gaps, labels, are_logits=False, resamples=50)
    scaled = calibrate(1000 * gaps, labels, are_logits=False, resamples=50)
    mirrored = calibrate(-gaps, 1 - labels, are_logits=False, resamples=50)
    assert scaled.scale == pytest.approx(1000 * fit.scale, rel=1e-6)
    assert mirrored.slope.estimate == pytest.approx(fit.slope.estimate, rel=1e-9)


def test_no_scale_where_none_can_be_known():
    assert calibrate([1.0, 2.0, 0.5], [1, 1, 1], are_logits=False, resamples=50).scale is None
    assert calibrate([1.0, 2.0, -0.5], [0, 0, 0], are_logits=False, resamples=50).scale is None
    assert calibrate([0.0, 0.0], [1, 0], are_logits=False, resamples=50).scale is None


@pytest.mark.slow
@pytest.mark.parametrize("copies", [1, 2])
def test_the_interval_covers(copies):
    """With copies, each prompt has two pairs of one label: 300 rows that say as much as 150."""
    rng = np.random.default_rng(2)
    inside = []
    for seed in range(500):
        gaps, labels = (np.repeat(part, copies) for part in made(rng, 150, 0.7))
        names = np.repeat(np.arange(150), copies)
        interval = calibrate(gaps, labels, names, are_logits=False, seed=seed, resamples=150).slope
        inside.append(interval.low <= 0.7 <= interval.high)
    assert 0.92 <= np.mean(inside) <= 0.98


def test_calibration_error_by_hand():
    """Confidences .8 (twice) and .6: agreement ½ and 1."""
    assert calibration_error([0.8, 0.2, 0.6], [1, 1, 1]) == pytest.approx((2 * 0.3 + 0.4) / 3, abs=1e-12)
    assert calibration_error([0.5, 0.5], [1, 0]) == 0
    assert calibration_error([1.0, 0.0], [1, 0]) == 0


def test_an_overconfident_judge_becomes_calibrated():
    gaps, labels = made(np.random.default_rng(3), 4000, 0.4)
    fit = calibrate(gaps, labels, are_logits=True, resamples=50)
    assert fit.ece_before > 0.08
    assert fit.ece_after < 0.02
