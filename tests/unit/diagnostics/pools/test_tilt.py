"""The frontier of a continuous score: equal to the one from levels, to closed forms, and its bands cover."""

import numpy as np
import pytest

from support.errors import raises
from tiltlm.core import ConfigError
from tiltlm.diagnostics import MIN_EFFECTIVE_SAMPLES, effective_samples, level_counts, masses_of, tilted
from tiltlm.diagnostics.frontier import tilted_masses
from tiltlm.diagnostics.pools import attained_shares, measure_tilt, reward_at, tilt_pool
from tiltlm.diagnostics.pools.tilt import strengths_for

BETAS = [np.inf, 3.0, 1.0, 0.4]


def test_equals_the_frontier_from_levels():
    levels = [0.0, 1.0, 2.5]
    scores = np.random.default_rng(0).choice(levels, size=(5, 64))
    counts = level_counts(scores, levels)
    exact = tilted(masses_of(counts), levels, BETAS)
    found, effective = tilt_pool(scores, BETAS)
    assert found.reward == pytest.approx(exact.reward)
    assert found.kl == pytest.approx(exact.kl, abs=1e-12)
    assert effective == pytest.approx(effective_samples(counts, tilted_masses(masses_of(counts), levels, BETAS)))


def test_normal_scores_have_the_closed_form():
    """s ~ N(0, 1): the tilt by β has mean 1/β and KL 1/(2β²)."""
    scores = np.random.default_rng(1).normal(size=(400, 2_000))
    found, _ = tilt_pool(scores, [2.0, 1.0])
    assert found.reward == pytest.approx([0.5, 1.0], abs=0.01)
    assert found.kl == pytest.approx([0.125, 0.5], abs=0.01)


def test_counts_repeat_samples():
    scores = np.array([[0.0, 1.0, 3.0]])
    repeated, effective = tilt_pool(scores, [1.0], [[2, 0, 1]])
    spelled, effective_of_three = tilt_pool([[0.0, 0.0, 3.0]], [1.0])
    assert repeated.reward == pytest.approx(spelled.reward)
    assert repeated.kl == pytest.approx(spelled.kl)
    assert effective == pytest.approx(effective_of_three)


def test_a_shift_of_the_scores_of_a_prompt_changes_no_kl():
    scores = np.random.default_rng(2).normal(size=(4, 100))
    shifted = scores + np.arange(4)[:, None]
    found, moved = tilt_pool(scores, BETAS)[0], tilt_pool(shifted, BETAS)[0]
    assert moved.kl == pytest.approx(found.kl)
    assert moved.reward == pytest.approx(found.reward + 1.5)


def test_nothing_is_drawn_with_too_few_effective_samples():
    scores = np.random.default_rng(3).normal(size=(20, 300))
    curve = measure_tilt(scores, draws=20)
    hidden = curve.effective_samples < MIN_EFFECTIVE_SAMPLES
    assert hidden.any()
    assert np.isnan(curve.reward[hidden]).all()
    assert np.isfinite(curve.reward[~hidden]).all()
    assert curve.kl[0] == 0
    known = np.isfinite(curve.reward)
    assert (np.diff(curve.kl[known]) > 0).all()
    assert (np.diff(curve.reward[known]) > 0).all()
    assert reward_at(curve, 0.0) == pytest.approx(scores.mean())
    assert np.isnan(reward_at(curve, 99.0))


def test_refuses_scores_that_do_not_vary_or_are_missing():
    with raises(ConfigError, "no_variation"):
        measure_tilt(np.ones((3, 10)))
    with raises(ConfigError, "wrong_shape"):
        measure_tilt([[1.0, np.nan]])
    assert strengths_for([[0.0, 1.0]])[0] == np.inf


@pytest.mark.slow
def test_bands_cover():
    """Normal scores have the reward √(2·KL); the 95 % band holds it in 92 to 98 % of 500 repeats."""
    rng = np.random.default_rng(4)
    hits = 0
    for repeat in range(500):
        scores = rng.normal(size=(20, 72))
        curve = measure_tilt(scores, betas=[np.inf, 2.0], seed=repeat, draws=60)
        hits += curve.low[1] <= np.sqrt(2 * curve.kl[1]) <= curve.high[1]
    assert 0.92 <= hits / 500 <= 0.98


def normal_world(rng, num_prompts, size, shift):
    """Return scores of a reference N(0, 1), and a policy N(shift, 1): its gain is `shift`, its KL shift²/2."""
    scores = rng.normal(size=(num_prompts, size))
    rewards = shift + rng.normal(size=(num_prompts, 8)).mean(1)
    return scores, rewards, np.full(num_prompts, shift**2 / 2)


def test_shares_of_known_policies():
    """N(δ, 1) is the tilt of N(0, 1), so it has all that is attainable; N(δ, 1) at twice its KL has 1/√2 of it."""
    rng = np.random.default_rng(5)
    scores, rewards, kl = normal_world(rng, 120, 400, 0.7)
    on, beyond, none, far = attained_shares(
        scores, [rewards, rewards, rewards - 0.7, rewards], [kl, 2 * kl, kl, kl + 40], draws=60
    )
    assert on.low < 1 < on.high
    assert beyond.low < 2**-0.5 < beyond.high
    assert none.low < 0 < none.high
    assert far is None, "the frontier is not known there"


@pytest.mark.slow
def test_intervals_of_shares_cover():
    """The share of a policy on the frontier is 1; the 95 % interval holds it in 92 to 98 % of 500 repeats."""
    rng = np.random.default_rng(6)
    hits = 0
    for repeat in range(500):
        scores, rewards, kl = normal_world(rng, 40, 72, 0.35)
        (share,) = attained_shares(scores, [rewards], [kl], draws=120, seed=repeat)
        hits += share.low <= 1 <= share.high
    assert 0.92 <= hits / 500 <= 0.98


def test_a_small_pool_knows_no_frontier():
    scores, rewards, kl = normal_world(np.random.default_rng(7), 10, 8, 0.1)
    assert attained_shares(scores, [rewards], [kl], draws=5) == [None]
