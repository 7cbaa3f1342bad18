"""The logistic fit for many resamples: one by one it gives the same, and it refuses to stop early."""

import numpy as np
import pytest

from support.errors import raises
from tiltlm.core import NumericsError
from tiltlm.diagnostics.comparing import logistic
from tiltlm.diagnostics.comparing.logistic import fit_logistic


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    design, advantages = rng.normal(size=(50, 3)), rng.uniform(-0.5, 0.5, 50)
    return design, advantages, rng.integers(0, 3, (4, 50)).astype(float)


def test_draws_do_not_depend_on_one_another(problem):
    design, advantages, weights = problem
    together = fit_logistic(design, advantages, weights, [0.1] * 3)
    alone = [fit_logistic(design, advantages, row[None], [0.1] * 3)[0] for row in weights]
    assert np.allclose(together, alone, atol=1e-8)
    each = fit_logistic(np.stack([design] * 4), advantages, weights, [0.1] * 3)
    assert np.allclose(together, each, atol=1e-8)


def test_weights_are_repetitions(problem):
    design, advantages, weights = problem
    rows = np.repeat(np.arange(50), weights[0].astype(int))
    repeated = fit_logistic(design[rows], advantages[rows], np.ones((1, len(rows))), [0.1] * 3)
    assert np.allclose(fit_logistic(design, advantages, weights[:1], [0.1] * 3), repeated, atol=1e-8)


def test_separated_data_stay_finite_and_converge():
    theta = fit_logistic([[1.0]] * 40, [0.5] * 40, np.ones((1, 40)), [1e-3])
    # σ(−θ) · 40 = 1e-3 · θ
    assert 40 / (1 + np.exp(theta[0, 0])) == pytest.approx(1e-3 * theta[0, 0], rel=1e-5)


def test_a_fit_that_does_not_converge_is_an_error(problem, monkeypatch):
    monkeypatch.setattr(logistic, "_MAX_STEPS", 1)
    with raises(NumericsError, code="not_converged"):
        fit_logistic(*problem, [0.1] * 3)
