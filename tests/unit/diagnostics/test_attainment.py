"""Bands, masks and shares of policies whose position on the frontier is known."""

import numpy as np
import pytest

from support.errors import raises
from tiltlm.core.errors import ConfigError
from tiltlm.diagnostics import MIN_EFFECTIVE_SAMPLES, measure_attainment, measure_frontier, tilted
from tiltlm.diagnostics.frontier import reward_and_kl, tilted_masses

LEVELS = np.arange(5.0)
TRUTH = np.random.default_rng(11).dirichlet(40 * np.array([0.06, 0.22, 0.36, 0.27, 0.09]), size=30)


def sample_counts(seed: int, samples: int) -> np.ndarray:
    return np.random.default_rng(seed).multinomial(samples, TRUTH)


def test_bands_hold_the_true_frontier():
    frontier = measure_frontier(sample_counts(0, 400), LEVELS, draws=300)
    shown = ~np.isnan(frontier.tilt.kl)
    truth = np.interp(frontier.tilt.kl[shown], *tilted(TRUTH, LEVELS, np.geomspace(1e3, 0.02, 2_000))[::-1])
    assert shown.sum() > 40
    assert (frontier.tilt.low[shown] <= truth).mean() > 0.95
    assert (frontier.tilt.high[shown] >= truth).mean() > 0.95
    assert (frontier.tilt.low[shown] <= frontier.tilt.reward[shown] + 2e-3).all()


def test_nothing_is_shown_where_samples_are_worth_too_little():
    frontier = measure_frontier(sample_counts(0, 256), LEVELS, draws=20)
    for curve in (frontier.tilt, frontier.best_of_n):
        hidden = curve.effective_samples < MIN_EFFECTIVE_SAMPLES
        assert 0 < hidden.sum() < len(hidden)
        for values in (curve.reward, curve.kl, curve.low, curve.high):
            assert (np.isnan(values) == hidden).all()
    assert frontier.tilt.effective_samples[0] == pytest.approx(256)


def test_a_policy_on_the_frontier_has_share_one():
    policy = tilted_masses(TRUTH, LEVELS, [0.5])[0]
    kl = (policy * np.log(policy / TRUTH)).sum(-1)
    result = measure_attainment(policy @ LEVELS, kl, sample_counts(1, 1_000), LEVELS, draws=200)
    assert result.share.estimate == pytest.approx(1.0, abs=0.03)
    assert result.share.low < 1.0 < result.share.high
    assert result.attainable.low < result.policy.estimate < result.attainable.high
    assert result.kl.estimate == pytest.approx(kl.mean())
    assert result.policy.n == 30


def test_share_is_the_gain_over_what_was_to_be_had():
    counts = sample_counts(2, 500)
    base = counts / 500
    half = (base + tilted_masses(base, LEVELS, [0.4])[0]) / 2
    point = reward_and_kl(half, base, LEVELS)
    kl = (half * np.log(half / base)).sum(-1)
    result = measure_attainment(half @ LEVELS, kl, counts, LEVELS, draws=50)
    curve = tilted(base, LEVELS, np.geomspace(1e4, 0.01, 20_000))
    best = np.interp(point.kl, curve.kl, curve.reward)
    reference = (base @ LEVELS).mean()
    assert result.reference.estimate == pytest.approx(reference)
    assert result.gain.estimate == pytest.approx(point.reward - reference)
    assert result.share.estimate == pytest.approx((point.reward - reference) / (best - reference), abs=1e-4)
    assert result.share.high < 1.0
    assert 0 < result.gain.low < result.gain.estimate < result.gain.high


def test_a_policy_that_spent_nothing_has_no_share():
    counts = sample_counts(3, 300)
    rewards = counts @ LEVELS / 300
    result = measure_attainment(rewards, np.full(30, -0.01), counts, LEVELS, draws=50)
    assert result.kl.estimate == pytest.approx(-0.01)  # the noisy estimate itself is reported
    assert result.attainable.estimate == pytest.approx(result.reference.estimate, abs=1e-6)
    assert abs(result.gain.estimate) < 1e-12


def test_results_are_seeded():
    counts, rewards, kl = sample_counts(4, 300), np.full(30, 3.0), np.full(30, 1.0)
    first, again, other = (measure_attainment(rewards, kl, counts, LEVELS, draws=50, seed=s) for s in (1, 1, 2))
    assert first == again
    assert first.share != other.share


def test_other_prompts_are_refused():
    with raises(ConfigError, "other_rows", mentions=["(29,)", "(30, 5)"]):
        measure_attainment(np.ones(29), np.ones(29), sample_counts(0, 300), LEVELS)
