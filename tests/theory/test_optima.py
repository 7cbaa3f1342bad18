"""Minimisers of the population loss of each method, compared with the closed forms of theory.

One line a method. The left side is the objective's own code minimised over K tabular logits; the right side is worked
out in numpy from the derivation and knows nothing of the package. Equal within 1e-7 in total variation.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from torch import Tensor

from tiltlm.links import Exponential, Logistic
from tiltlm.objectives import Objective, Pairwise, build
from tiltlm.rewards import LogOdds, LogRatio
from tiltlm.worlds.finite import FiniteWorld
from tiltlm.worlds.population import Population, comparisons, fit_policy, rankings, scored, view_of

Array = np.ndarray


@dataclass(frozen=True)
class Facts:
    """A world as plain arrays: reward, lengths, reference, preference, sampler."""

    r: Array
    T: Array
    p0: Array
    P: Array
    W: Array

    @property
    def wins(self) -> Array:
        """P̄: how often each response wins the comparisons it is in; P̄_μ where W = μμᵀ."""
        return (self.W * self.P).sum(1) / self.W.sum(1)


def facts(world: FiniteWorld) -> Facts:
    return Facts(
        *(t.numpy() for t in (world.reward, world.lengths, world.ref_logps.exp(), world.preference, world.sampler))
    )


def normalised(weights: Array) -> Array:
    return weights / weights.sum()


def shifted(policy_at: Callable[[float], Array], low: float = -30.0, high: float = 30.0) -> Array:
    """π(y) at the one constant c at which it sums to 1; `policy_at` grows with c."""
    return policy_at(brentq(lambda c: policy_at(c).sum() - 1, low, high, xtol=1e-14))


def ipo_optimum(w: Facts, tau: float) -> Array:
    """Weighted least squares over the comparisons: the graph Laplacian of W applied to ρ is Σ_j W_ij (P_ij − ½)/τ."""
    laplacian = np.diag(w.W.sum(1)) - w.W
    return np.linalg.pinv(laplacian) @ (w.W * (w.P - 0.5)).sum(1) / tau


def alphapo(w: Facts, alpha: float, beta: float) -> Array:
    """r_α(y) = r + c  ⇔  π = (1 − α(r + c)/β)^(−T/α); the base must stay above 0."""
    edge = beta / alpha - (w.r.max() if alpha > 0 else w.r.min())
    low, high = (-1e3, edge - 1e-9) if alpha > 0 else (edge + 1e-9, 1e3)
    return shifted(lambda c: (1 - alpha * (w.r + c) / beta) ** (-w.T / alpha), low, high)


def f_dpo(w: Facts, inverse_slope: Callable[[Array], Array], highest: float, beta: float) -> Array:
    """π = π_ref·(f′)⁻¹((r + c)/β); f′ stays below `highest`, so c stays below β·highest − max r."""
    high = beta * highest - w.r.max() - 1e-9
    return shifted(lambda c: w.p0 * inverse_slope((w.r + c) / beta), high - 1e3, high)


def jensen_shannon(v: Array) -> Array:
    """The inverse of v = log(2u/(1+u))."""
    return np.exp(v) / (2 - np.exp(v))


@dataclass(frozen=True)
class Case:
    label: str
    objective: Callable[[], Objective]
    closed_form: Callable[[Facts], Array]
    population: Callable[[FiniteWorld], Population] | None = None
    """Populations other than the default of the objective's shape."""

    def __str__(self) -> str:
        return self.label


def case(name: str, closed_form: Callable[[Facts], Array], population: Any = None, **knobs: Any) -> Case:
    label = " ".join([name, *(f"{k}={v}" for k, v in knobs.items())])
    return Case(label, lambda: build(name, **knobs), closed_form, population)


def composed(label: str, objective: Objective, closed_form: Callable[[Facts], Array]) -> Case:
    return Case(label, lambda: objective, closed_form)


def soft(world: FiniteWorld) -> Population:
    return comparisons(world, "soft")


def flipped(rate: float) -> Callable[[FiniteWorld], Population]:
    """Return comparisons whose labels are flipped at this rate."""

    def population(world: FiniteWorld) -> Population:
        noisy = (1 - rate) * world.preference + rate * (1 - world.preference)
        return comparisons(replace(world, preference=noisy))

    return population


def scored_pairs(world: FiniteWorld) -> Population:
    """Every pair as a scored list of two: with a temperature of 1 its target is the Bradley–Terry preference."""
    (whole,), _ = scored(world)
    pairs = [(i, j) for i in range(world.num_responses) for j in range(i) if world.sampler[i, j] > 0]
    rows = [
        replace(
            whole,
            responses=(whole.responses[i], whole.responses[j]),
            scores=(whole.scores[i], whole.scores[j]),
            weight=float(world.sampler[i, j]),
        )
        for i, j in pairs
    ]
    return rows, [[i, j] for i, j in pairs]


REACHES_THE_TILT = [
    case("dpo", lambda w: normalised(w.p0 * np.exp(w.r / 0.1)), beta=0.1),
    case("dpo", lambda w: normalised(w.p0 * np.exp(w.r / 0.5)), beta=0.5),
    case("dpo", lambda w: normalised(w.p0 * np.exp(w.r / 2.0)), soft, beta=2.0),
    case("robust_dpo", lambda w: normalised(w.p0 * np.exp(w.r / 0.5)), flipped(0.2), beta=0.5, label_smoothing=0.2),
    case("f_dpo", lambda w: normalised(w.p0 * np.exp(w.r / 0.5)), beta=0.5, divergence="reverse_kl"),
    case("exo", lambda w: normalised(w.p0 * np.exp(w.r / (0.5 * 0.8))), scored, beta=0.5, reward_temperature=0.8),
    case("exo", lambda w: normalised(w.p0 * np.exp(w.r / 0.5)), scored_pairs, beta=0.5, reward_temperature=1.0),
    case("info_nca", lambda w: normalised(w.p0 * np.exp(w.r / 0.5)), scored_pairs, beta=0.5, reward_temperature=1.0),
    case("dno", lambda w: normalised(w.p0 * np.exp(w.r / 0.5)), eta=0.5),
    case("info_nca", lambda w: normalised(w.p0 * np.exp(w.r / (0.5 * 0.8))), beta=0.5, reward_temperature=0.8),
    case("pl_dpo", lambda w: normalised(w.p0 * np.exp(w.r / 0.5)), rankings, beta=0.5),
    composed(
        "exponential", Pairwise(LogRatio(0.5), Exponential()), lambda w: normalised(w.p0 * np.exp(w.r / (2 * 0.5)))
    ),
]

ELSEWHERE = [
    case("ipo", lambda w: normalised(w.p0 * np.exp(ipo_optimum(w, 0.6))), tau=0.6),
    case("ipo_mean", lambda w: shifted(lambda c: w.p0 * np.exp(w.T * (ipo_optimum(w, 0.6) + c))), tau=0.6),
    case("length_dpo", lambda w: normalised(w.p0 * np.exp((w.r - 0.3 * w.T) / 0.5)), beta=0.5, alpha=0.3),
    case("ln_dpo", lambda w: shifted(lambda c: w.p0 * np.exp(w.T * (w.r + c) / 2.0)), beta=2.0),
    case("cpo", lambda w: normalised(np.exp(w.r / 0.5)), beta=0.5, nll_weight=0.0),
    case("simpo", lambda w: shifted(lambda c: np.exp(w.T * (w.r + c) / 2.0)), beta=2.0, gamma_beta_ratio=0.0),
    case("alphapo", lambda w: alphapo(w, 0.5, 2.5), alpha=0.5, beta=2.5, gamma_beta_ratio=0.0),
    case("alphapo", lambda w: alphapo(w, -0.25, 2.5), alpha=-0.25, beta=2.5, gamma_beta_ratio=0.0),
    case(
        "rainbowpo",
        lambda w: shifted(lambda c: w.p0**0.25 * np.exp(w.T * (w.r + c) / 2.0)),
        beta=2.0,
        alpha=0.25,
        gamma_beta_ratio=0.0,
    ),
    composed(
        "odds ratio alone",
        Pairwise(LogOdds(), Logistic()),
        lambda w: shifted(lambda c: (1 / (1 + np.exp(-w.r - c))) ** w.T),
    ),
    case("orpo", lambda w: normalised(w.W.sum(1) * w.wins / w.T), odds_weight=1e-9),
    case("sft", lambda w: 2 * w.W.sum(1) * w.wins),
    case("f_dpo", lambda w: f_dpo(w, lambda v: -1 / v, 0.0, 0.5), beta=0.5, divergence="forward_kl"),
    case("f_dpo", lambda w: f_dpo(w, jensen_shannon, np.log(2), 0.5), beta=0.5, divergence="jensen_shannon"),
    case(
        "f_dpo",
        lambda w: f_dpo(w, lambda v: (1 - 0.3 * v) ** (-1 / 0.3), 1 / 0.3, 0.5),
        beta=0.5,
        divergence="alpha",
        alpha=0.3,
    ),
    case("rebel", lambda w: normalised(w.p0 * np.exp(0.7 * w.r)), eta=0.7),
]


@pytest.mark.parametrize("case", REACHES_THE_TILT + ELSEWHERE, ids=str)
@pytest.mark.parametrize("sampler", ["uniform", "on_policy", "general"])
def test_the_population_minimiser_is_the_closed_form(case, sampler, request):
    world, objective = request.getfixturevalue(sampler), case.objective()
    view = None if case.population is None else view_of(objective, case.population(world))
    found = fit_policy(objective, world, view)
    assert found.finite
    assert np.abs(found.logps.exp().numpy() - case.closed_form(facts(world))).sum() / 2 < 1e-7


def test_a_k3_penalty_in_the_loss_ends_where_forward_kl_does(uniform):
    """Policy gradient on r with β·k3 as a loss (GRPO's form) is stationary at βπ_ref/(λ − r), f-DPO's forward KL.

    Not at the tilt, where reward − β·KL has its maximum.
    """

    def slope(policy: Tensor) -> Tensor:
        logits = policy.clone().requires_grad_()
        logps = torch.log_softmax(logits, 0)
        held, gap = logps.detach().exp(), uniform.ref_logps - logps
        loss = -(held * uniform.reward * logps).sum() + 0.5 * (held * (gap.exp() - 1 - gap)).sum()
        return torch.autograd.grad(loss, logits)[0].abs().max()

    found = fit_policy(build("f_dpo", beta=0.5, divergence="forward_kl"), uniform).logps
    assert float(slope(found)) < 1e-9
    assert float(slope(uniform.optimum(0.5))) > 1e-2
