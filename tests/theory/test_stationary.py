"""Minimisers without a closed form: the separately derived slope of the population loss is zero at the fit.

Each case is ∂ℓ/∂S_w and ∂ℓ/∂S_l of one comparison, written down from the formula in numpy for all K² of them at once.
On the simplex a point is stationary where the slopes g of all responses obey g_y = π_y·Σg.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import root

from tiltlm.objectives import build
from tiltlm.worlds.finite import FiniteWorld, total_variation
from tiltlm.worlds.population import fit_policy, population_loss, unpaired, view_of

Array = np.ndarray
Slopes = tuple[Array | float, Array | float]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


@dataclass(frozen=True)
class Sides:
    """All comparisons at once: rows are chosen responses, columns rejected ones."""

    S: Array
    S0: Array
    T: Array

    @property
    def w(self) -> "Sides":
        return Sides(self.S[:, None], self.S0[:, None], self.T[:, None])

    @property
    def l(self) -> "Sides":  # noqa: E743
        return Sides(self.S[None, :], self.S0[None, :], self.T[None, :])

    @property
    def rho(self) -> Array:
        return self.S - self.S0

    @property
    def A(self) -> Array:
        return self.S / self.T

    @property
    def p(self) -> Array:
        return np.exp(self.A)

    @property
    def h(self) -> Array:
        return self.w.rho - self.l.rho


def margin(slope: Array, of_w: Any, of_l: Any) -> Slopes:
    """A loss of a margin: its slope times what each side's S moves the margin by."""
    return slope * of_w, -slope * of_l


def logistic(z: Array) -> Array:
    return -sigmoid(-z)


def exo(y: Sides) -> Slopes:
    """d/dz KL((q, 1−q)‖(1−ε, ε)) = q(1−q)·(z − log((1−ε)/ε))."""
    z = 0.5 * y.h
    return margin(sigmoid(z) * sigmoid(-z) * (z - np.log(0.9 / 0.1)), 0.5, 0.5)


def discopop(y: Sides) -> Slopes:
    z, tau = 0.5 * y.h, 0.5
    m = sigmoid(z / tau)
    slope = logistic(z) * (1 - m) - np.exp(-z) * m + m * (1 - m) / tau * (np.exp(-z) - np.log1p(np.exp(-z)))
    return margin(slope, 0.5, 0.5)


def simpo(y: Sides) -> Slopes:
    return margin(logistic(2.0 * (y.w.A - y.l.A) - 2.0 * 0.5), 2.0 / y.w.T, 2.0 / y.l.T)


def alphapo(y: Sides) -> Slopes:
    r = 2.5 * (1 - y.p**-0.25) / 0.25
    slope = logistic(r[:, None] - r[None, :] - 2.5 * 0.3)
    return margin(slope, 2.5 * y.w.p**-0.25 / y.w.T, 2.5 * y.l.p**-0.25 / y.l.T)


def rainbowpo(y: Sides) -> Slopes:
    gap = (y.w.A - y.l.A) - 0.25 * (y.w.S0 / y.w.T - y.l.S0 / y.l.T) - 0.75 * 0.4
    return margin(logistic(2.0 * gap), 2.0 / y.w.T, 2.0 / y.l.T)


def ld_dpo(y: Sides) -> Slopes:
    """With every token of a response alike, the share of it that counts is (m + α(T − m))/T, m the shorter length."""
    shorter = np.minimum(y.w.T, y.l.T)
    of_w, of_l = (0.5 * (shorter + 0.3 * (side.T - shorter)) / side.T for side in (y.w, y.l))
    return margin(logistic(of_w * y.w.rho - of_l * y.l.rho), of_w, of_l)


def dpo_nll(y: Sides) -> Slopes:
    up, down = margin(logistic(0.5 * y.h), 0.5, 0.5)
    return up - 0.7 / y.w.T, down


def cpo(y: Sides) -> Slopes:
    up, down = margin(logistic(0.5 * (y.w.S - y.l.S)), 0.5, 0.5)
    return up - 0.7 / y.w.T, down


def orpo(y: Sides) -> Slopes:
    odds = y.p / (1 - y.p)
    slope = -0.5 / (1 + odds[:, None] / odds[None, :])
    up, down = margin(slope, 1 / (1 - y.w.p) / y.w.T, 1 / (1 - y.l.p) / y.l.T)
    return up - 1 / y.w.T, down


def cal_dpo(y: Sides) -> Slopes:
    up, down = margin(logistic(y.h), 1.0, 1.0)
    return up + 2 * 0.5 * (y.w.rho - 1 / (2 * 0.8)), down + 2 * 0.5 * (y.l.rho + 1 / (2 * 0.8))


def dpop(y: Sides) -> Slopes:
    slope = logistic(0.5 * (y.h - 0.2 * np.maximum(0, -y.w.rho)))
    return margin(slope, 0.5 * (1 + 0.2 * (y.w.rho < 0)), 0.5)


def sppo(y: Sides) -> Slopes:
    return y.w.rho - 1 / (2 * 0.8), y.l.rho + 1 / (2 * 0.8)


def nca(y: Sides) -> Slopes:
    return 0.4 * (-sigmoid(-0.4 * y.w.rho) + 0.5 * sigmoid(0.4 * y.w.rho)), 0.4 * 0.5 * sigmoid(0.4 * y.l.rho)


def bco_pair(y: Sides) -> Slopes:
    return -0.4 * sigmoid(-0.4 * y.w.rho), 0.4 * sigmoid(0.4 * y.l.rho)


CASES: list[tuple[str, dict[str, Any], Callable[[Sides], Slopes]]] = [
    (
        "cdpo",
        {"beta": 0.5, "label_smoothing": 0.15},
        lambda y: margin(sigmoid(0.5 * y.h) - 0.85, 0.5, 0.5),
    ),
    ("dpo_nll", {"beta": 0.5, "nll_weight": 0.7}, dpo_nll),
    ("cpo", {"beta": 0.5, "nll_weight": 0.7}, cpo),
    ("orpo", {"odds_weight": 0.5}, orpo),
    ("cal_dpo", {"beta": 0.8, "calibration_weight": 0.5}, cal_dpo),
    ("dpop", {"beta": 0.5, "positive_weight": 0.2}, dpop),
    ("discopop", {"beta": 0.5, "tau": 0.5}, discopop),
    ("exo", {"beta": 0.5, "label_smoothing": 0.1}, exo),
    ("simpo", {"beta": 2.0, "gamma_beta_ratio": 0.5}, simpo),
    ("alphapo", {"alpha": 0.25, "beta": 2.5, "gamma_beta_ratio": 0.3}, alphapo),
    ("rainbowpo", {"beta": 2.0, "alpha": 0.25, "gamma_beta_ratio": 0.4}, rainbowpo),
    ("ld_dpo", {"beta": 0.5, "alpha": 0.3}, ld_dpo),
    ("sppo", {"beta": 0.8}, sppo),
    ("nca", {"beta": 0.4}, nca),
    ("bco_pair", {"beta": 0.4}, bco_pair),
]


def slope_of(world: FiniteWorld, logps: torch.Tensor, pair: Callable[[Sides], Slopes]) -> Array:
    """∂(population loss)/∂S of every response, from the slopes of single comparisons."""
    up, down = pair(Sides(logps.numpy(), world.ref_logps.numpy(), world.lengths.numpy().astype(float)))
    mass = (2 * world.sampler * world.preference).numpy()
    return (mass * up).sum(1) + (mass * down).sum(0)


@pytest.mark.parametrize("sampler", ["uniform", "general"])
@pytest.mark.parametrize(("name", "knobs", "pair"), CASES, ids=[case[0] for case in CASES])
def test_the_fit_is_stationary_by_a_slope_derived_apart(name, knobs, pair, sampler, request):
    world = request.getfixturevalue(sampler)
    objective = build(name, **knobs)
    anywhere = torch.tensor([-1.5, -1.25, -2.75, -1.0], dtype=torch.float64, requires_grad=True)
    (given,) = torch.autograd.grad(population_loss(objective, world, anywhere), anywhere)
    np.testing.assert_allclose(given.numpy(), slope_of(world, anywhere.detach(), pair), rtol=1e-9, atol=1e-12)
    found = fit_policy(objective, world)
    assert found.finite
    slope = slope_of(world, found.logps, pair)
    np.testing.assert_allclose(slope, found.logps.exp().numpy() * slope.sum(), atol=1e-9)


@pytest.mark.parametrize(
    ("name", "knobs"),
    [
        ("cdpo", {"beta": 0.5, "label_smoothing": 0.15}),
        ("ipo", {"tau": 0.5}),
        ("discopop", {"beta": 0.5, "tau": 0.5}),
        ("exo", {"beta": 0.5, "label_smoothing": 0.1}),
        ("dpo_nll", {"beta": 0.5, "nll_weight": 0.7}),
        ("dpop", {"beta": 0.5, "positive_weight": 0.2}),
    ],
)
def test_what_is_not_consistent_for_bradley_terry_ends_elsewhere(uniform, name, knobs):
    """No tilt by the gold reward at any strength: its log-ratios are not affine in the reward."""
    found = fit_policy(build(name, **knobs), uniform).logps
    reward, rho = uniform.reward.numpy(), (found - uniform.ref_logps).numpy()
    slope, offset = np.polyfit(reward, rho, 1)
    assert np.abs(rho - slope * reward - offset).max() > 1e-3


def test_bco_with_its_shift_held(uniform):
    """On single labels: chosen mass times −βσ(−(βρ − δ)) plus rejected mass times βσ(βρ − δ), halved."""
    objective = build("bco", beta=0.4)
    found = fit_policy(objective, uniform, view_of(objective, unpaired(uniform), baseline=0.3))
    x = 0.4 * (found.logps - uniform.ref_logps).numpy() - 0.3
    slope = 0.2 * (uniform.rejected_mass.numpy() * sigmoid(x) - uniform.chosen_mass.numpy() * sigmoid(-x))
    np.testing.assert_allclose(slope, found.logps.exp().numpy() * slope.sum(), atol=1e-10)


TARGETS = [
    ("nca", {"beta": 1.0}, lambda wins: np.log(2 * wins)),
    ("nca", {"beta": 0.4}, lambda wins: np.log(2 * wins) / 0.4),
    ("bco_pair", {"beta": 0.4}, lambda wins: np.log(wins / (1 - wins)) / 0.4),
    ("sppo", {"beta": 0.8}, lambda wins: (wins - 0.5) / 0.8),
]


@pytest.mark.parametrize(("name", "knobs", "target"), TARGETS)
def test_the_log_ratio_each_response_would_take_if_it_were_free(general, name, knobs, target):
    """NCA e^r̂ = 2P̄, BCO e^r̂ = P̄/(1 − P̄), SPPO ρ = (P̄ − ½)/β: the slope is zero there, whatever Σπ is."""
    wins = (general.chosen_mass / (general.chosen_mass + general.rejected_mass)).numpy()
    logps = (general.ref_logps + torch.from_numpy(target(wins))).requires_grad_()
    (slope,) = torch.autograd.grad(population_loss(build(name, **knobs), general, logps), logps)
    np.testing.assert_allclose(slope.numpy(), 0, atol=1e-12)


def test_nca_on_samples_of_the_reference_doubles_the_winners(on_policy):
    """β = 1, μ = π_ref: the free targets are a policy, π = 2·π_ref·P̄, and so its minimiser."""
    found = fit_policy(build("nca", beta=1.0), on_policy).logps
    expected = on_policy.ref_logps + torch.log(2 * on_policy.win_rates())
    assert float(expected.exp().sum()) == pytest.approx(1.0, abs=1e-12)
    assert total_variation(found, expected) < 1e-7


def test_normalisation_binds_where_the_targets_are_no_policy(general):
    """Otherwise Σ π_ref·e^target is not 1, and the minimiser keeps all of the targets only if it can."""
    for name, knobs, target in TARGETS[1:]:
        wins = (general.chosen_mass / (general.chosen_mass + general.rejected_mass)).numpy()
        free = general.ref_logps + torch.from_numpy(target(wins))
        assert abs(float(free.exp().sum()) - 1) > 1e-3
        assert total_variation(fit_policy(build(name, **knobs), general).logps, free) > 1e-3


def test_nca_on_a_scored_list():
    """softmax(r/α)_k·σ(−s) = σ(s)/K: e^s = K·softmax(r/α)_k, a policy at β = 1 where the reference is even."""
    reward = torch.tensor([0.0, 0.4, 1.0, -0.7], dtype=torch.float64)
    world = FiniteWorld.of(reward, torch.tensor([3, 1, 7, 2]), torch.zeros(4))
    found = fit_policy(build("nca", beta=1.0, reward_temperature=0.7), world).logps
    assert total_variation(found, torch.log_softmax(reward / 0.7, 0)) < 1e-7


def test_wpo_does_not_move_the_optimum(general):
    """Its weights are positive, held, and the same whichever of two responses won: every term is zero at π*."""
    objective, optimum = build("wpo", beta=0.5), general.optimum(0.5)

    def slope(free: Array) -> Array:
        logits = torch.from_numpy(np.append(0.0, free)).requires_grad_()
        (found,) = torch.autograd.grad(population_loss(objective, general, torch.log_softmax(logits, 0)), logits)
        return found[1:].numpy()

    np.testing.assert_allclose(slope((optimum[1:] - optimum[0]).numpy()), 0, atol=1e-12)
    start = (general.ref_logps[1:] - general.ref_logps[0]).numpy()
    found = torch.from_numpy(np.append(0.0, root(slope, start, tol=1e-12).x))
    assert total_variation(torch.log_softmax(found, 0), optimum) < 1e-7


@pytest.mark.parametrize(
    ("c", "beta", "rests_at"), [(1.0, 0.5, 1.0541), (0.5, 0.5, 1.0998), (1.0, 1.0, 0.6134), (0.5, 1.0, 0.6983)]
)
def test_where_cal_dpo_leaves_one_certain_pair(c, beta, rests_at):
    """ρ_w = −ρ_l = s with 2c(s − 1/(2β)) = σ(−2s), in log-ratios that are free."""
    world = FiniteWorld.of(torch.tensor([1.0, 0.0]), torch.tensor([2, 5]), torch.tensor([-1.0, 0.5]))
    certain = FiniteWorld(
        world.reward, world.lengths, world.ref_logps, torch.tensor([[0.5, 1.0], [0.0, 0.5]]).double(),
        torch.tensor([[0.0, 0.5], [0.5, 0.0]]).double(),
    )  # fmt: skip
    shift = torch.tensor([rests_at, -rests_at], dtype=torch.float64)
    logps = (world.ref_logps + shift).requires_grad_()
    objective = build("cal_dpo", beta=beta, calibration_weight=c)
    (slope,) = torch.autograd.grad(population_loss(objective, certain, logps), logps)
    np.testing.assert_allclose(slope.numpy(), 0, atol=2.5e-4)
