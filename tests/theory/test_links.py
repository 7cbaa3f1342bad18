"""Where each link brings the margin of one pair to rest when the label is right with probability p."""

import math

import pytest
import torch
from scipy.optimize import minimize_scalar

from tiltlm.links import Exponential, Hinge, Link, Logistic, Sigmoid, Squared


def minimiser(link: Link, p: float) -> float:
    def population(z: float) -> float:
        u = torch.tensor([z], dtype=torch.float64)
        return float(p * link(u) + (1 - p) * link(-u))

    return float(minimize_scalar(population, bounds=(-30, 30), method="bounded", options={"xatol": 1e-10}).x)


def logit(p: float) -> float:
    return math.log(p / (1 - p))


@pytest.mark.parametrize("p", [0.3, 0.5, 0.8, 0.95])
def test_minimisers(p):
    assert minimiser(Logistic(), p) == pytest.approx(logit(p), abs=1e-5)
    assert minimiser(Squared(target=3.0), p) == pytest.approx(3.0 * (2 * p - 1), abs=1e-5)
    assert minimiser(Exponential(), p) == pytest.approx(logit(p) / 2, abs=1e-5)


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


@pytest.mark.parametrize("link", [Logistic(), Exponential(), Sigmoid()])
def test_certain_labels_have_no_finite_minimiser(link):
    """For p = 1 the loss still falls at any margin."""
    u = torch.tensor([1.0, 5.0, 20.0], dtype=torch.float64, requires_grad=True)
    link(u).sum().backward()
    assert (u.grad < 0).all()


@pytest.mark.parametrize("link", [Logistic(), Logistic(1.0), Squared(2.0), Hinge(1.0), Exponential(), Sigmoid()])
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
