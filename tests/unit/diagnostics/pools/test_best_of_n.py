"""Best-of-n: against enumeration of all subsets, exact worlds, golden numbers, and the coverage of its intervals."""

from itertools import combinations

import numpy as np
import pytest

from support.errors import raises
from tiltlm.core import ConfigError
from tiltlm.diagnostics import best_of_n as exact_best_of_n
from tiltlm.diagnostics.frontier import best_of_n_masses
from tiltlm.diagnostics.pools import (
    best_of_n_values,
    best_of_n_win_rates,
    collision_rate,
    find_peak,
    kl_bound,
    measure_best_of_n,
    pass_at_k,
    poisson_values,
    selection_kl,
    soft_best_of_n_values,
)


def by_subsets(scores, values, n):
    """The mean over all subsets of n, ties split equally: the definition."""
    means = []
    for subset in combinations(range(len(scores)), n):
        best = max(scores[i] for i in subset)
        means.append(np.mean([values[i] for i in subset if scores[i] == best]))
    return np.mean(means)


def test_golden_curve_with_ties():
    found = best_of_n_values([[1, 2, 2, 4]], [[0, 1, 3, 5]], [1, 2, 3, 4])
    assert found.tolist() == [pytest.approx([2.25, 3.5, 4.25, 5])]
    assert best_of_n_values([[1, 2, 3, 4]], [[1, 2, 3, 4]], [1, 2, 3, 4])[0] == pytest.approx([2.5, 10 / 3, 3.75, 4])


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_mean_over_all_subsets(seed):
    rng = np.random.default_rng(seed)
    scores, values = rng.integers(4, size=7).astype(float), rng.normal(size=7)
    found = best_of_n_values([scores], [values], range(1, 8))[0]
    assert found == pytest.approx([by_subsets(scores, values, n) for n in range(1, 8)], abs=1e-12)


def test_the_order_of_a_pool_changes_nothing():
    rng = np.random.default_rng(0)
    scores, values = rng.integers(3, size=(5, 12)).astype(float), rng.normal(size=(5, 12))
    order = rng.permutation(12)
    ns = [1, 3, 12]
    assert best_of_n_values(scores[:, order], values[:, order], ns) == pytest.approx(
        best_of_n_values(scores, values, ns), abs=1e-12
    )


def test_limits_one_draw_is_the_mean_all_draws_the_maximum_and_worst_of_n_mirrors():
    scores = np.random.default_rng(1).normal(size=(6, 40))
    found = best_of_n_values(scores, scores, [1, 40])
    assert found[:, 0] == pytest.approx(scores.mean(1))
    assert found[:, 1] == pytest.approx(scores.max(1))
    worst = best_of_n_values(-scores, scores, [40])
    assert worst[:, 0] == pytest.approx(scores.min(1))
    assert (np.diff(best_of_n_values(scores, scores, range(1, 41)), axis=1) > 0).all()


def test_large_pools_stay_exact():
    """C(N, n) is beyond float64 here."""
    scores = np.arange(3000.0)[None]
    found = best_of_n_values(scores, scores, [1500])[0, 0]
    assert found == pytest.approx(1500 * 3001 / 1501 - 1, rel=1e-9)  # the mean of the largest of n of 1..N


def test_is_unbiased_in_a_world_with_known_levels():
    """Over many pools the mean is the exact reward of best-of-n from the level masses."""
    rng = np.random.default_rng(2)
    masses, levels, ns = np.array([[0.5, 0.3, 0.15, 0.05]]), [0.0, 1.0, 2.0, 3.0], [1, 2, 4, 8]
    pools = rng.choice(levels, size=(20_000, 8), p=masses[0])
    exact = exact_best_of_n(masses, levels, ns).reward
    found = best_of_n_values(pools, pools, ns)
    error = found.std(0) / np.sqrt(len(pools))
    assert (np.abs(found.mean(0) - exact) < 4 * error).all()


def test_pass_at_k():
    correct = [[1, 0, 0, 0, 0]]
    assert pass_at_k(correct, 2) == pytest.approx([1 - (4 * 3) / (5 * 4)])
    assert pass_at_k(correct, 5) == pytest.approx([1.0])


def test_poisson_of_zero_is_one_draw_and_a_mixture_of_the_curve():
    scores = np.random.default_rng(3).normal(size=(3, 32))
    assert poisson_values(scores, scores, [0.0])[:, 0] == pytest.approx(scores.mean(1))
    curve = best_of_n_values(scores, scores, range(1, 33))
    masses = np.exp(-2.0) * np.cumprod([1, *(2.0 / k for k in range(1, 32))])
    assert poisson_values(scores, scores, [2.0])[:, 0] == pytest.approx(curve @ masses / masses.sum())
    with raises(ConfigError, code="out_of_range"):
        poisson_values(scores, scores, [30.0])


def test_soft_choice_lies_between_one_draw_and_the_best():
    scores = np.random.default_rng(4).normal(size=(4, 16))
    cold = soft_best_of_n_values(scores, scores, [16], 1e-3)[:, 0]
    hot = soft_best_of_n_values(scores, scores, [16], 1e6)[:, 0]
    assert cold == pytest.approx(scores.max(1), abs=1e-9)
    assert hot == pytest.approx(scores.mean(1), abs=1e-4)
    one = soft_best_of_n_values(scores, scores, [1], 1.0, subsets=4000)[:, 0]
    assert one == pytest.approx(scores.mean(1), abs=0.1)


def test_soft_choice_from_two_by_enumeration():
    scores, values = np.array([[0.0, 1.0, 3.0]]), np.array([[5.0, -1.0, 2.0]])
    terms = []
    for i, j in combinations(range(3), 2):
        w = np.exp(scores[0, [i, j]] / 0.7)
        terms.append((w * values[0, [i, j]]).sum() / w.sum())
    found = soft_best_of_n_values(scores, values, [2], 0.7, subsets=20_000)[0, 0]
    assert found == pytest.approx(np.mean(terms), abs=0.03)


def test_kl_bound_golden():
    assert kl_bound([2, 4, 8, 16, 64]) == pytest.approx([0.193147, 0.636294, 1.204442, 1.835089, 3.174508], abs=1e-6)
    assert kl_bound([1]) == pytest.approx([0.0])


def test_selection_kl_is_near_the_exact_one_and_below_the_bound():
    """50 responses, all of different score: the estimate is near the exact KL, where the bound is not."""
    rng = np.random.default_rng(5)
    probabilities = rng.dirichlet(np.full(50, 0.5))
    scores = rng.permutation(50).astype(float)
    order = np.argsort(scores)
    for n in (4, 16, 64):
        masses = best_of_n_masses(probabilities[order][None], [n])[0, 0]
        exact = float((masses * np.log(masses / probabilities[order], where=masses > 0, out=np.zeros(50))).sum())
        draws = rng.choice(50, size=(4_000, 64), p=probabilities)
        found = selection_kl(scores[draws], np.log(probabilities)[draws], [n]).mean()
        bound = kl_bound([n])[0]
        assert found <= bound
        assert abs(found - exact) < {4: 1, 16: 0.6, 64: 0.5}[n] * abs(bound - exact)


def test_selection_kl_of_one_draw_of_rare_and_of_certain_responses():
    scores = np.arange(8.0)[None]
    assert selection_kl(scores, np.full((1, 8), -3.0), [1]) == pytest.approx(0.0)
    assert selection_kl(scores, np.full((1, 8), -400.0), [8])[0] == pytest.approx(kl_bound([8]))
    assert selection_kl(scores, np.zeros((1, 8)), [8])[0] == pytest.approx([0.0], abs=1e-12)


def test_collisions():
    assert collision_rate([[b"a", b"a", b"b", b"c"], [b"x", b"x", b"x", b"x"]]) == pytest.approx((1 / 6 + 1) / 2)


def test_refuses_more_draws_than_there_are_and_missing_scores():
    with raises(ConfigError, code="out_of_range", key="n"):
        best_of_n_values([[1.0, 2.0]], [[1.0, 2.0]], [3])
    with raises(ConfigError, code="not_finite"):
        best_of_n_values([[1.0, np.nan]], [[1.0, 2.0]], [1])
    with raises(ConfigError, code="wrong_shape"):
        best_of_n_values([[1.0, 2.0]], [[1.0]], [1])


def flawed_world(rng, num_prompts, pool):
    """Gold g; the proxy adds an error with heavy upper tail that costs gold, so choosing harder does harm."""
    gold = rng.normal(size=(num_prompts, pool))
    flaw = rng.random((num_prompts, pool)) < 0.05
    proxy = gold + 4.0 * flaw
    return proxy, gold - 3.0 * flaw


def test_the_peak_is_found_and_the_harm_beyond_it():
    proxy, gold = flawed_world(np.random.default_rng(6), 400, 64)
    found = measure_best_of_n(proxy, [1, 2, 4, 8, 16, 32, 64], gold=gold)
    assert found.peak is not None
    assert found.peak.low <= found.peak.n <= found.peak.high
    assert found.peak.n in (2, 4, 8)
    assert found.peak.is_over_optimised
    assert found.proxy_gain[-1].low > 0 > found.gold_gain[-1].high
    assert found.fit is not None
    assert found.fit.beta.low > 0


def test_a_perfect_judge_is_not_over_optimised():
    gold = np.random.default_rng(7).normal(size=(200, 32))
    found = measure_best_of_n(gold, [1, 2, 4, 8, 16, 32], gold=gold)
    assert found.peak.n == found.peak.chosen_n == 32
    assert not found.peak.is_over_optimised
    assert found.fit is None, "five points beyond one draw are too few for a fit"


def test_height_of_the_peak_is_not_the_winners_curse():
    """Gold is pure noise: the largest of many means is above 0 on average, its value on other prompts is not."""
    heights, largest = [], []
    for seed in range(200):
        noise = np.random.default_rng(seed).normal(size=(40, 8))
        peak = find_peak(noise - noise[:, :1], noise, range(1, 9), seed=seed, resamples=50)
        heights.append(peak.gold.estimate)
        largest.append(noise.mean(0).max())
    assert np.mean(largest) > 0.15
    assert abs(np.mean(heights)) < 4 * np.std(heights) / np.sqrt(200)


@pytest.mark.slow
def test_intervals_cover():
    """Nominal 95 % intervals of proxy, gold and gain hold the exact value in 92 to 98 % of 600 repeats."""
    levels, masses, ns = np.array([0.0, 1.0, 2.0]), np.array([0.6, 0.3, 0.1]), [1, 4, 8]
    exact = exact_best_of_n(masses[None], levels, ns).reward
    rng = np.random.default_rng(8)
    hits = np.zeros((2, 3))
    for repeat in range(600):
        pools = rng.choice(levels, size=(60, 8), p=masses)
        noisy = pools + rng.normal(size=pools.shape)  # the gold score: the level with noise that averages out
        found = measure_best_of_n(pools, ns, gold=noisy, seed=repeat, resamples=300)
        for row, curve in enumerate((found.proxy, found.gold)):
            hits[row] += [interval.low <= truth <= interval.high for interval, truth in zip(curve, exact, strict=True)]
    assert (hits / 600 > 0.92).all()
    assert (hits / 600 < 0.98).all()


def test_win_rates_of_the_best_of_n_by_every_choice_of_draws():
    """All ways to draw n of a pool and one opponent from the rest; n/(n+1) without equal scores."""
    rng = np.random.default_rng(8)
    scores = np.concatenate([rng.integers(3, size=(3, 6)).astype(float), rng.normal(size=(1, 6))])
    found = best_of_n_win_rates(scores, [1, 2, 5])
    for row, rates in zip(scores, found, strict=True):
        for n, rate in zip([1, 2, 5], rates, strict=True):
            outcomes = [
                (np.sign(row[list(drawn)].max() - row[other]) + 1) / 2
                for drawn in combinations(range(6), n)
                for other in set(range(6)) - set(drawn)
            ]
            assert rate == pytest.approx(np.mean(outcomes))
    assert found[3] == pytest.approx([1 / 2, 2 / 3, 5 / 6])
    with raises(ConfigError, "out_of_range", key="n"):
        best_of_n_win_rates(scores, [6])
