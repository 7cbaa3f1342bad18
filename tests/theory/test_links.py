"""The optimal margin of each link for one pair whose label is right with probability p."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from tiltlm.links import Blended, Denoised, Exponential, Hinge, Link, Logistic, ReverseKL, Sigmoid, Smoothed, Squared


def population(link: Link, p: float, z: np.ndarray) -> np.ndarray:
    u = torch.from_numpy(np.atleast_1d(z))
    return (p * link(u) + (1 - p) * link(-u)).numpy()


def minimiser(link: Link, p: float) -> float:
    """The lowest point of a grid, then refined around it: links need not be convex."""
    grid = np.linspace(-12, 12, 2401)
    best = grid[population(link, p, grid).argmin()]
    found = minimize_scalar(
        lambda z: float(population(link, p, z)[0]),
        bounds=(best - 0.02, best + 0.02),
        method="bounded",
        options={"xatol": 1e-10},
    )
    return float(found.x)


def logit(p: float) -> float:
    return math.log(p / (1 - p))


@pytest.mark.parametrize("p", [0.3, 0.5, 0.8, 0.95])
@pytest.mark.parametrize(
    ("link", "rests_at"),
    [
        (Logistic(), logit),
        (Squared(target=3.0), lambda p: 3.0 * (2 * p - 1)),
        (Exponential(), lambda p: logit(p) / 2),
        (Smoothed(Logistic(), 0.1), lambda p: logit(p * 0.9 + (1 - p) * 0.1)),
        (Smoothed(Squared(3.0), 0.1), lambda p: 3.0 * (2 * p - 1) * 0.8),
        (ReverseKL(0.01), lambda p: (2 * p - 1) * math.log(0.99 / 0.01)),
    ],
    ids=["logistic", "squared", "exponential", "smoothed", "smoothed squared", "reverse KL"],
)
def test_minimisers(link, rests_at, p):
    assert minimiser(link, p) == pytest.approx(rests_at(p), abs=1e-5)


@pytest.mark.parametrize("p", [0.3, 0.8, 0.95])
def test_denoising_finds_the_clean_odds_in_flipped_labels(p):
    """Labels flipped at rate ε have probability p(1−ε) + (1−p)ε; the minimiser is logit of the clean p."""
    rate = 0.15
    assert minimiser(Denoised(Logistic(), rate), p * (1 - rate) + (1 - p) * rate) == pytest.approx(logit(p), abs=1e-4)


def test_smoothing_stops_a_certain_label():
    assert minimiser(Smoothed(Logistic(), 0.1), 1.0) == pytest.approx(math.log(9), abs=1e-5)


@pytest.mark.parametrize("p", [0.3, 0.8])
def test_hinge_knows_only_the_sign(p):
    assert minimiser(Hinge(margin=2.0), p) == pytest.approx(math.copysign(2.0, p - 0.5), abs=1e-4)


@pytest.mark.parametrize("p", [0.3, 0.8])
def test_a_target_margin_moves_the_logistic_minimiser(p):
    """z* = log{[q + √(q² + 4p(1−p)g²)] / (2(1−p)g)}, q = 2p − 1, g = e^(−γ)."""
    gamma = 0.7
    q, g = 2 * p - 1, math.exp(-gamma)
    expected = math.log((q + math.sqrt(q * q + 4 * p * (1 - p) * g * g)) / (2 * (1 - p) * g))
    assert minimiser(Logistic(margin=gamma), p) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("p", "rests_at"), [(0.6, 0.782), (0.7, 1.128), (0.8, 1.575), (0.9, 2.293)])
def test_discopops_blend(p, rests_at):
    assert minimiser(Blended(0.05), p) == pytest.approx(rests_at, abs=1e-3)


def test_discopops_blend_has_two_minima_at_a_tie():
    assert abs(minimiser(Blended(0.05), 0.5)) == pytest.approx(0.48, abs=0.01)
    at, middle = (float(population(Blended(0.05), 0.5, np.array([z]))[0]) for z in (0.48, 0.0))
    assert at < middle


@pytest.mark.parametrize("link", [Logistic(), Exponential(), Sigmoid(), Denoised(Logistic(), 0.1), Blended(0.05)])
def test_certain_labels_have_no_finite_minimiser(link):
    """For p = 1 the loss decreases at every margin."""
    u = torch.tensor([1.0, 5.0, 20.0], dtype=torch.float64, requires_grad=True)
    link(u).sum().backward()
    assert (u.grad < 0).all()


@pytest.mark.parametrize("p", [0.3, 0.8])
def test_a_sigmoid_has_no_finite_minimiser_for_any_majority(p):
    """Its population loss is linear in σ(z): it decreases without end towards the majority."""
    values = population(Sigmoid(), p, np.linspace(-12, 12, 49) * math.copysign(1, p - 0.5))
    assert (np.diff(values) < 0).all()


def test_denoising_is_unbounded_below_and_faster_than_the_logistic_link():
    """A pair with one label only has slope −σ(−z) − ε/(1 − 2ε), whose second part does not vanish."""
    u = torch.tensor([0.0, 20.0], dtype=torch.float64, requires_grad=True)
    Denoised(Logistic(), 0.1)(u).sum().backward()
    assert u.grad.tolist() == pytest.approx([-0.5 - 0.125, -0.125], abs=1e-8)


@pytest.mark.parametrize(
    "link",
    [
        *(Logistic(), Logistic(1.0), Squared(2.0), Hinge(1.0), Exponential(), Sigmoid()),
        *(Blended(0.05), ReverseKL(0.01), Smoothed(Logistic(), 0.1), Smoothed(Sigmoid(), 0.1)),
    ],
)
def test_convexity_is_what_the_link_says(link):
    u = torch.linspace(-6, 6, 241, dtype=torch.float64)
    mid = link((u[:-2] + u[2:]) / 2)
    assert bool((mid <= (link(u[:-2]) + link(u[2:])) / 2 + 1e-12).all()) == link.convex


def test_logistic_is_finite_far_out():
    u = torch.tensor([-5000.0, 5000.0], requires_grad=True)
    loss = Logistic()(u)
    loss.sum().backward()
    assert loss.tolist() == [5000.0, 0.0]
    assert u.grad.tolist() == [-1.0, 0.0]


@pytest.mark.parametrize("link", [Exponential(), Blended(0.05), ReverseKL(0.001), Denoised(Logistic(), 0.1)])
def test_links_are_finite_far_out(link):
    """At margins of thousands of nats, loss and slope are finite, in single precision too."""
    u = torch.tensor([-5000.0, -80.0, 80.0, 5000.0], requires_grad=True)
    loss = link(u)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(u.grad).all()


@pytest.mark.parametrize(("tau", "sign"), [(0.05, 1), (0.1, 1), (0.11, -1), (1.0, -1)])
def test_discopop_starts_the_wrong_way_for_a_small_tau(tau, sign):
    """ℓ′(0) = (1 − log 2)/(4τ) − ¾: at the published τ a pair at the reference first moves in the wrong direction."""
    margin = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(Blended(tau)(margin).sum(), margin)
    assert slope.item() == pytest.approx((1 - math.log(2)) / (4 * tau) - 0.75, rel=1e-12)
    assert slope.sign().item() == sign
