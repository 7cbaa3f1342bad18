"""The theorems of the tilted frontier and of best-of-n, on worlds small enough to enumerate."""

import math
from itertools import product

import numpy as np
import pytest

from support.errors import raises
from tiltlm.core.errors import ConfigError
from tiltlm.diagnostics import attainable, best_of_n, effective_samples, level_counts, masses_of, tilted
from tiltlm.diagnostics.frontier import best_of_n_masses, beta_grid, beta_spending, reward_and_kl, tilted_masses

LEVELS = np.array([0.0, 1.0, 2.5, 3.0, 4.0])
MASSES = np.random.default_rng(7).dirichlet([2, 5, 6, 4, 1], size=6)


def entropy_bound(n: float) -> float:
    return math.log(n) - (n - 1) / n


def test_levels_give_the_same_tilt_as_responses():
    """Tilting 50 responses one by one has the reward and KL of tilting their levels: r is all that matters."""
    rng = np.random.default_rng(0)
    responses, reward, beta = rng.dirichlet(np.ones(50)), rng.choice(LEVELS, 50), 0.7
    policy = responses * np.exp(reward / beta)
    policy /= policy.sum()
    masses = np.array([[responses[reward == level].sum() for level in LEVELS]])
    point = tilted(masses, LEVELS, [beta])
    assert point.reward[0] == pytest.approx(policy @ reward, abs=1e-12)
    assert point.kl[0] == pytest.approx(policy @ np.log(policy / responses), abs=1e-12)


def test_reward_grows_by_the_variance_and_kl_by_its_multiple():
    strength, step = 0.8, 1e-4
    ends = tilted(MASSES, LEVELS, 1 / np.array([strength - step, strength + step]))
    policy = tilted_masses(MASSES, LEVELS, [1 / strength])[0]
    variance = (policy @ LEVELS**2 - (policy @ LEVELS) ** 2).mean()
    assert np.diff(ends.reward)[0] / (2 * step) == pytest.approx(variance, rel=1e-6)
    assert np.diff(ends.kl)[0] / (2 * step) == pytest.approx(strength * variance, rel=1e-6)


def test_the_slope_of_the_frontier_is_beta():
    betas = np.array([4.0, 1.0, 0.3])
    for beta in betas:
        ends = tilted(MASSES, LEVELS, [beta * 1.0001, beta * 0.9999])
        assert np.diff(ends.reward)[0] / np.diff(ends.kl)[0] == pytest.approx(beta, rel=1e-4)


def test_the_frontier_is_concave_and_rises_from_the_reference_to_the_highest_level():
    curve = tilted(MASSES, LEVELS, beta_grid(LEVELS))
    slopes = np.diff(curve.reward) / np.diff(curve.kl)
    assert (np.diff(curve.kl) > 0).all()
    assert (np.diff(slopes) < 0).all()
    assert curve.kl[0] == pytest.approx(0.0, abs=1e-12)
    assert curve.reward[0] == pytest.approx((MASSES @ LEVELS).mean())
    end = tilted(MASSES, LEVELS, [1e-3])
    assert end.reward[0] == pytest.approx(4.0)
    assert end.kl[0] == pytest.approx(-np.log(MASSES[:, -1]).mean())


def test_no_policy_lies_above_the_frontier():
    rng = np.random.default_rng(1)
    policies = rng.dirichlet(np.full(5, 0.5), size=(2_000, 6))
    points = reward_and_kl(policies, MASSES, LEVELS)
    assert (points.reward <= attainable(MASSES, LEVELS, points.kl) + 1e-9).all()


def test_one_beta_for_all_prompts_beats_equal_kl_at_each():
    """The best split of a mean KL gives every prompt the same β, not the same KL."""
    budget = 0.5
    equal_kl = np.mean([attainable(masses[None], LEVELS, budget) for masses in MASSES])
    assert attainable(MASSES, LEVELS, budget) > equal_kl + 1e-4
    policy = tilted_masses(MASSES, LEVELS, beta_spending(MASSES, LEVELS, budget))[0]
    assert reward_and_kl(policy, MASSES, LEVELS).kl == pytest.approx(budget, abs=1e-9)


def test_attainable_inverts_the_curve():
    betas = np.array([3.0, 0.9, 0.4])
    curve = tilted(MASSES, LEVELS, betas)
    assert beta_spending(MASSES, LEVELS, curve.kl) == pytest.approx(betas, rel=1e-6)
    assert attainable(MASSES, LEVELS, curve.kl) == pytest.approx(curve.reward, abs=1e-9)
    assert attainable(MASSES, LEVELS, 0.0) == pytest.approx((MASSES @ LEVELS).mean(), abs=1e-6)
    assert attainable(MASSES, LEVELS, 100.0) == pytest.approx(4.0)


def test_best_of_n_is_exact():
    """Against the enumeration of all draws of three, and the closed form at n = 1 and n → ∞."""
    masses = MASSES[:1]
    enumerated = np.zeros(5)
    for draw in product(range(5), repeat=3):
        enumerated[max(draw)] += masses[0][list(draw)].prod()
    assert best_of_n_masses(masses, [3])[0, 0] == pytest.approx(enumerated, abs=1e-12)
    ends = best_of_n(MASSES, LEVELS, [1, 1e9])
    assert ends.reward.tolist() == pytest.approx([(MASSES @ LEVELS).mean(), 4.0])
    assert ends.kl.tolist() == pytest.approx([0.0, -np.log(MASSES[:, -1]).mean()], abs=1e-12)


def test_best_of_n_lies_under_the_frontier_and_under_its_bound():
    ns = np.array([1, 2, 3, 8, 50, 1000])
    points = best_of_n(MASSES, LEVELS, ns)
    assert (points.reward <= attainable(MASSES, LEVELS, points.kl) + 1e-9).all()
    assert all(kl <= entropy_bound(n) + 1e-12 for kl, n in zip(points.kl, ns, strict=True))
    fine = np.full((1, 4000), 1 / 4000)  # nearly no atoms: the bound is almost reached
    assert best_of_n(fine, np.arange(4000.0), [4]).kl[0] == pytest.approx(entropy_bound(4), abs=1e-3)


def test_levels_that_never_occur_change_nothing():
    masses = np.array([[0.0, 0.5, 0.0, 0.5, 0.0]])
    small = np.array([[0.5, 0.5]])
    for beta in (0.01, 1.0):
        assert tilted(masses, LEVELS, [beta]).kl == pytest.approx(tilted(small, LEVELS[[1, 3]], [beta]).kl)
    assert best_of_n(masses, LEVELS, [5]).reward == pytest.approx(best_of_n(small, LEVELS[[1, 3]], [5]).reward)
    assert attainable(masses, LEVELS, 9.0) == pytest.approx(3.0)


def test_counts_and_masses():
    counts = level_counts([[0.0, 4.0, 4.0], [2.5, 2.5, 1.0]], LEVELS)
    assert counts.tolist() == [[1, 0, 0, 0, 2], [0, 1, 2, 0, 0]]
    assert masses_of(counts)[0].tolist() == pytest.approx([1 / 3, 0, 0, 0, 2 / 3])
    with raises(ConfigError, "unknown_level", key="rewards", mentions=["2.0"]):
        level_counts([[2.0]], LEVELS)
    with raises(ConfigError, "empty", key="rewards"):
        level_counts([[]], LEVELS)


def test_effective_samples_are_kish_numbers_per_prompt():
    counts = np.array([[10, 30], [20, 20]])
    policy = np.array([[[0.5, 0.5], [0.5, 0.5]]])
    by_prompt = []
    for row in counts:
        weights = np.repeat(0.5 / (row / row.sum()), row)  # one importance weight a sample
        by_prompt.append(weights.sum() ** 2 / (weights**2).sum())
    assert by_prompt == pytest.approx([30.0, 40.0])
    assert effective_samples(counts, policy) == pytest.approx([2 / (1 / 30 + 1 / 40)])


@pytest.mark.parametrize(
    ("call", "code", "key", "seen"),
    [
        (lambda: tilted(MASSES, LEVELS[::-1], [1.0]), "not_ascending", "levels", "4.0"),
        (lambda: tilted(MASSES * 2, LEVELS, [1.0]), "not_probabilities", "masses", "(6, 5)"),
        (lambda: tilted(MASSES[0], LEVELS, [1.0]), "not_probabilities", "masses", "(5,)"),
        (lambda: tilted(MASSES, LEVELS, [0.0]), "not_positive", "betas", "0"),
        (lambda: best_of_n(MASSES, LEVELS, [0.5]), "out_of_range", "ns", "0.5"),
        (lambda: attainable(MASSES, LEVELS, -0.1), "negative", "kl", "-0.1"),
    ],
)
def test_impossible_input_is_refused(call, code, key, seen):
    with raises(ConfigError, code, key=key, mentions=[seen]):
        call()
