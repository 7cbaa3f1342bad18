"""The reward–KL frontier of a finite world: its identities, and that no policy lies beyond it."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch import tensor

from tiltlm.diagnostics import frontier
from tiltlm.objectives import build
from tiltlm.worlds.finite import FiniteWorld, log_bound_of_best_of_n, total_variation
from tiltlm.worlds.population import fit_policy

STRENGTHS = [0.1, 0.7, 2.0, 6.0]
"""λ = 1/β."""


def moments(world: FiniteWorld, strength: float) -> tuple[float, float]:
    """Mean and variance of the reward under π_λ ∝ π_ref·exp(λr), in numpy."""
    r = world.reward.numpy()
    weights = world.ref_logps.exp().numpy() * np.exp(strength * r)
    policy = weights / weights.sum()
    mean = float(policy @ r)
    return mean, float(policy @ (r - mean) ** 2)


@pytest.mark.parametrize("strength", STRENGTHS)
def test_the_partition_function_generates_the_moments(uniform, strength):
    """E = d log Z/dλ and Var = dE/dλ, by central differences."""
    h, beta = 1e-4, 1 / strength
    up, down = (uniform.log_partition(1 / (strength + s * h)) for s in (1, -1))
    mean, variance = moments(uniform, strength)
    assert (up - down) / (2 * h) == pytest.approx(mean, abs=1e-7)
    assert (up - 2 * uniform.log_partition(beta) + down) / h**2 == pytest.approx(variance, rel=1e-5)
    assert uniform.expected_reward(uniform.optimum(beta)) == pytest.approx(mean, abs=1e-12)


@pytest.mark.parametrize("strength", STRENGTHS)
def test_kl_of_the_tilt_and_its_slope(uniform, strength):
    """KL = λE − log Z, dKL/dλ = λ·Var, and so dE/dKL = β."""
    h, beta = 1e-4, 1 / strength
    mean, variance = moments(uniform, strength)
    assert uniform.kl_to_reference(uniform.optimum(beta)) == pytest.approx(
        strength * mean - uniform.log_partition(beta), abs=1e-12
    )
    up, down = (uniform.optimum(1 / (strength + s * h)) for s in (1, -1))
    spent = uniform.kl_to_reference(up) - uniform.kl_to_reference(down)
    assert spent / (2 * h) == pytest.approx(strength * variance, rel=1e-6)
    assert (uniform.expected_reward(up) - uniform.expected_reward(down)) / spent == pytest.approx(beta, rel=1e-6)


def test_the_frontier_is_concave_and_ends_at_the_best_response(uniform):
    reward, spent = uniform.frontier([1 / s for s in np.linspace(0.05, 8, 60)])
    slopes = np.diff(reward.numpy()) / np.diff(spent.numpy())
    assert (np.diff(slopes) < 0).all()
    best = float(uniform.ref_logps[uniform.reward.argmax()])
    assert uniform.kl_to_reference(uniform.optimum(1e-3)) == pytest.approx(-best, abs=1e-9)


def test_what_is_lost_is_beta_times_the_kl_to_the_optimum(uniform):
    """J(π) = β log Z − β·KL(π‖π*), for any π."""
    for beta, seed in product([0.3, 1.0], range(4)):
        policy = torch.log_softmax(torch.from_numpy(np.random.default_rng(seed).normal(0, 2, 4)), 0)
        gap = float((policy.exp() * (policy - uniform.optimum(beta))).sum())
        assert uniform.value(policy, beta) == pytest.approx(beta * uniform.log_partition(beta) - beta * gap, abs=1e-12)


def policies(world: FiniteWorld) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(5)
    found = {f"random {i}": torch.log_softmax(torch.from_numpy(rng.normal(0, 2, 4)), 0) for i in range(5)}
    found |= {f"best of {n}": world.best_of_n(n) for n in (1, 2, 5, 20)}
    trained = [("ipo", {"tau": 0.3}), ("simpo", {"gamma_beta_ratio": 0.0}), ("orpo", {"odds_weight": 0.5}), ("sft", {})]
    return found | {name: fit_policy(build(name, **knobs), world).logps for name, knobs in trained}


def test_no_policy_lies_beyond_the_frontier(uniform):
    """KL(π‖π_ref) ≥ λE_π[r] − log Z(λ) at every λ; equality holds for the tilt only."""
    strengths = np.geomspace(0.01, 100, 200)
    for name, policy in policies(uniform).items():
        reward, spent = uniform.expected_reward(policy), uniform.kl_to_reference(policy)
        slack = [spent - (s * reward - uniform.log_partition(1 / s)) for s in strengths]
        assert min(slack) > -1e-12, name
    tilt = uniform.optimum(1 / strengths[50])
    reward, spent = uniform.expected_reward(tilt), uniform.kl_to_reference(tilt)
    assert spent == pytest.approx(strengths[50] * reward - uniform.log_partition(1 / strengths[50]), abs=1e-12)


def test_dpo_is_on_the_frontier_and_ipo_inside_it(uniform):
    """At equal KL, DPO's optimum has the highest reward; the tilt along win rates has less."""
    masses, levels = level_masses(uniform)
    share = {}
    for name, knobs in (("dpo", {"beta": 0.5}), ("ipo", {"tau": 0.2})):
        policy = fit_policy(build(name, **knobs), uniform).logps
        possible = float(frontier.attainable(masses, levels, uniform.kl_to_reference(policy)))
        share[name] = uniform.expected_reward(policy) - possible
    assert share["dpo"] == pytest.approx(0.0, abs=1e-9)
    assert share["ipo"] < -1e-5


def test_proxy_and_gold_part_where_their_covariance_turns(uniform):
    """d E_λ[gold]/dλ = Cov_λ(gold, proxy): the peak of over-optimisation is its zero."""
    gold = tensor([0.2, 1.0, 0.3, -1.0]).double()
    strengths = np.linspace(0.01, 6, 600)
    tilts = [uniform.optimum(1 / s).exp() for s in strengths]
    curve = np.array([float(p @ gold) for p in tilts])
    covariance = np.array([float(p @ (gold * uniform.reward) - (p @ gold) * (p @ uniform.reward)) for p in tilts])
    np.testing.assert_allclose(np.gradient(curve, strengths)[1:-1], covariance[1:-1], atol=1e-4)
    turn = int(np.argmax(curve))
    assert 0 < turn < len(curve) - 1
    assert covariance[turn - 1] > 0 > covariance[turn + 1]


def tied() -> FiniteWorld:
    return FiniteWorld.of(
        tensor([0.5, 1.0, -1.0, 1.0, 0.5]), tensor([1, 2, 3, 4, 5]), tensor([0.1, -1.0, 0.7, -0.3, 0.0])
    )


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_best_of_n_by_listing_every_draw(n):
    """All Kⁿ outcomes of n draws; the best of each, ties shared evenly among the draws that tie."""
    world = tied()
    mass, reward = world.ref_logps.exp().tolist(), world.reward.tolist()
    expected = np.zeros(5)
    for draws in product(range(5), repeat=n):
        top = max(reward[d] for d in draws)
        winners = [d for d in draws if reward[d] == top]
        for winner in winners:
            expected[winner] += math.prod(mass[d] for d in draws) / len(winners)
    np.testing.assert_allclose(world.best_of_n(n).exp().numpy(), expected, atol=1e-13)


@pytest.mark.parametrize("n", [2, 4, 16, 64, 4096])
def test_best_of_n_spends_less_than_its_bound(n):
    """KL ≤ log n − (n−1)/n, and never more than −log of the best level's mass, which it reaches."""
    world = tied()
    spent = world.kl_to_reference(world.best_of_n(n))
    most = -math.log(float(world.ref_logps.exp()[[1, 3]].sum()))
    assert spent < log_bound_of_best_of_n(n)
    assert spent <= most + 1e-12
    if n == 4096:
        assert spent == pytest.approx(most, abs=1e-9)
    assert world.win_rate(world.best_of_n(n)) <= n / (n + 1)


@pytest.mark.parametrize(("n", "value"), [(2, 0.193147), (4, 0.636294), (8, 1.204442), (16, 1.835089), (64, 3.174508)])
def test_the_bound_of_best_of_n(n, value):
    assert log_bound_of_best_of_n(n) == pytest.approx(value, abs=1e-6)


def test_the_bound_is_reached_as_responses_lose_their_mass():
    """With K equal responses the KL of best-of-n nears log n − (n−1)/n, and the win rate n/(n+1)."""
    gaps = []
    for size in (10, 100, 1000):
        world = FiniteWorld.of(torch.arange(size).double(), torch.ones(size, dtype=torch.long), torch.zeros(size))
        hard = (world.reward[:, None] > world.reward[None, :]).double() + torch.eye(size) / 2
        best = world.best_of_n(8)
        gaps.append(log_bound_of_best_of_n(8) - world.kl_to_reference(best))
        assert float(best.exp() @ hard.mean(1)) == pytest.approx(8 / 9, abs=2 / size)
    assert gaps[0] > gaps[1] > gaps[2] > 0
    assert gaps[2] < 1e-3


@pytest.mark.parametrize("n", [2, 5])
def test_bonds_form_of_best_of_n(n):
    """π_ref·p_≤^(n−1)·Σ_{i≤n} (p_</p_≤)^(i−1) is the same distribution (BOND, arXiv 2407.14622)."""
    world = tied()
    mass, r = world.ref_logps.exp().numpy(), world.reward.numpy()
    up_to = (mass * (r[None] <= r[:, None])).sum(1)
    below = (mass * (r[None] < r[:, None])).sum(1)
    bond = mass * up_to ** (n - 1) * sum((below / up_to) ** i for i in range(n))
    np.testing.assert_allclose(world.best_of_n(n).exp().numpy(), bond, atol=1e-13)


def test_the_variational_best_of_n_differs_where_responses_have_mass():
    """E log F − KL/(n−1) is maximised by ∝ π_ref·F^(n−1): not best-of-n, unless no response has mass of its own."""
    world = tied()
    up_to = torch.log((world.ref_logps.exp() * (world.reward[None] <= world.reward[:, None])).sum(1))
    variational = torch.log_softmax(world.ref_logps + 3 * up_to, 0)
    assert 0.01 < total_variation(variational, world.best_of_n(4)) < 0.2


def level_masses(world: FiniteWorld) -> tuple[np.ndarray, np.ndarray]:
    order = world.reward.argsort()
    return world.ref_logps.exp()[order].numpy()[None], world.reward[order].numpy()


@pytest.mark.parametrize("beta", [0.2, 1.0])
def test_the_measured_frontier_is_the_worlds(uniform, beta):
    """Evaluation computes the frontier from levels and their masses; it equals the sums over responses."""
    masses, levels = level_masses(uniform)
    point = frontier.tilted(masses, levels, [beta])
    assert point.reward[0] == pytest.approx(uniform.expected_reward(uniform.optimum(beta)), abs=1e-12)
    assert point.kl[0] == pytest.approx(uniform.kl_to_reference(uniform.optimum(beta)), abs=1e-12)
    best = frontier.best_of_n(masses, levels, [6])
    assert best.reward[0] == pytest.approx(uniform.expected_reward(uniform.best_of_n(6)), abs=1e-12)
    assert best.kl[0] == pytest.approx(uniform.kl_to_reference(uniform.best_of_n(6)), abs=1e-12)
