"""Negative results: losses without a finite minimum, labels that leave odds undetermined, noisy estimators."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from tiltlm.links import Exponential
from tiltlm.objectives import Pairwise, build
from tiltlm.rewards import LogRatio
from tiltlm.worlds.finite import FiniteWorld, total_variation
from tiltlm.worlds.population import comparisons, fit_policy, view_of


def certain(world: FiniteWorld) -> FiniteWorld:
    """Return a world where the better response always wins, as with an argmax judge or best-against-worst pairs."""
    wins = (world.reward[:, None] > world.reward[None, :]).double()
    return replace(world, preference=wins + torch.eye(world.num_responses, dtype=torch.float64) / 2)


def better_ones(world: FiniteWorld) -> FiniteWorld:
    """Return certain labels without ties, for methods that need a score gap."""
    apart = world.sampler * (1 - torch.eye(world.num_responses, dtype=torch.float64))
    return replace(certain(world), sampler=apart / apart.sum())


@pytest.mark.parametrize(
    ("name", "knobs"),
    [
        ("dpo", {"beta": 1.0}),
        ("robust_dpo", {"beta": 1.0, "label_smoothing": 0.1}),
        ("odpo", {"beta": 1.0, "alpha": 0.5}),
        ("length_dpo", {"beta": 1.0, "alpha": 0.1}),
        ("f_dpo", {"beta": 1.0, "divergence": "jensen_shannon"}),
        ("cpo", {"beta": 1.0, "nll_weight": 0.0}),
        ("simpo", {"beta": 4.0, "gamma_beta_ratio": 0.5}),
        ("apo_zero", {"beta": 1.0}),
        ("discopop", {"beta": 1.0, "tau": 0.5}),
        ("bco_pair", {"beta": 1.0}),
    ],
)
def test_certain_labels_push_the_margin_to_infinity(uniform, name, knobs):
    """No policy with full support is a minimiser: only early stopping or capacity ends the descent."""
    found = fit_policy(build(name, **knobs), better_ones(uniform))
    assert not found.finite
    assert float(found.logps.min()) < -20


@pytest.mark.parametrize(
    ("name", "knobs"),
    [
        ("ipo", {"tau": 0.3}),
        ("ipo_mean", {"tau": 0.3}),
        ("cdpo", {"beta": 1.0, "label_smoothing": 0.1}),
        ("exo", {"beta": 1.0, "label_smoothing": 0.1}),
        ("cal_dpo", {"beta": 0.5}),
        ("sppo", {"beta": 0.5}),
        ("rebel", {"eta": 1.0}),
        ("orpo", {"odds_weight": 0.5}),
    ],
)
def test_what_stays_finite_under_certain_labels(uniform, name, knobs):
    found = fit_policy(build(name, **knobs), certain(uniform))
    assert found.finite
    assert float((found.logps - uniform.ref_logps).abs().max()) < 15


def test_imitation_never_visits_what_always_loses(uniform):
    """SFT on chosen responses, and DPO with it, both give no mass to a response that wins only against itself."""
    assert float(fit_policy(build("sft"), certain(uniform)).logps.exp()[3]) == pytest.approx(1 / 16, abs=1e-9)
    assert not fit_policy(build("sft"), better_ones(uniform)).finite


@pytest.mark.parametrize(("name", "knobs"), [("kto", {"beta": 1.0}), ("apo_zero", {"beta": 1.0})])
def test_a_sigmoid_of_absolute_rewards_keeps_only_the_majority(uniform, name, knobs):
    """All mass leaves responses that lose more than they win; the rest obey a_i·βσ′(βρ_i) = κ·π_i, a_i = μ_i(2P̄_i − 1).

    Linear in σ(βρ), the loss pushes every response to an extreme, and only Σπ = 1 ends it.
    """
    found = fit_policy(build(name, **knobs), uniform)
    wins = (uniform.chosen_mass - uniform.rejected_mass).numpy()
    kept = wins > 0
    assert kept.tolist() == [False, True, True, False]
    assert not found.finite
    policy = found.logps.exp().numpy()
    assert policy[~kept].max() < 1e-10
    rho = (found.logps - uniform.ref_logps).numpy()[kept]
    pull = wins[kept] * np.exp(-rho) / (1 + np.exp(-rho)) ** 2
    assert pull[0] / policy[kept][0] == pytest.approx(pull[1] / policy[kept][1], rel=1e-5)


def test_ipo_summed_and_averaged_are_different_methods(uniform):
    """No τ makes the two equal if lengths differ; if all lengths are equal, the factor T does."""
    summed = fit_policy(build("ipo", tau=0.5), uniform).logps
    nearest = min(
        total_variation(summed, fit_policy(build("ipo_mean", tau=float(tau)), uniform).logps)
        for tau in np.geomspace(0.05, 50, 30)
    )
    assert nearest > 0.02
    even = replace(uniform, lengths=torch.full((4,), 4))
    averaged = fit_policy(build("ipo_mean", tau=0.5 * 4), even).logps
    assert total_variation(fit_policy(build("ipo", tau=0.5), even).logps, averaged) < 1e-7


def test_length_decides_under_a_mean_reward_and_not_under_a_log_ratio():
    """Two responses of equal reward, 3 and 12 tokens: DPO does not change their odds, mean rewards do."""
    world = FiniteWorld.of(torch.tensor([0.5, 0.5, -0.5]), torch.tensor([3, 12, 5]), torch.zeros(3))
    odds = {
        name: float(logps[1] - logps[0])
        for name, knobs in (
            ("dpo", {"beta": 0.5}),
            ("ipo", {"tau": 0.5}),
            ("simpo", {"gamma_beta_ratio": 0.0}),
            ("ln_dpo", {"beta": 2.0}),
            ("alphapo", {"alpha": 0.25, "gamma_beta_ratio": 0.0}),
            ("orpo", {"odds_weight": 0.5}),
        )
        for logps in [fit_policy(build(name, **knobs), world).logps]
    }
    assert odds["dpo"] == pytest.approx(0.0, abs=1e-7)
    assert odds["ipo"] == pytest.approx(0.0, abs=1e-7)
    assert min(abs(odds[name]) for name in ("simpo", "ln_dpo", "alphapo", "orpo")) > 0.3


def test_mass_between_responses_that_are_never_compared_is_undecided(uniform):
    """{0, 1} and {2, 3} are compared within only: odds within are those of π*, odds between those of the start."""
    sampler = torch.zeros(4, 4, dtype=torch.float64)
    sampler[0, 1] = sampler[1, 0] = sampler[2, 3] = sampler[3, 2] = 0.25
    world, objective, optimum = replace(uniform, sampler=sampler), build("dpo", beta=0.5), uniform.optimum(0.5)
    ends = [
        fit_policy(objective, world, start=torch.tensor(start, dtype=torch.float64)).logps
        for start in ([0.0, 0.0, 0.0, 0.0], [2.0, 2.0, 0.0, 0.0])
    ]
    for found in ends:
        assert float(found[0] - found[1]) == pytest.approx(float(optimum[0] - optimum[1]), abs=1e-7)
        assert float(found[2] - found[3]) == pytest.approx(float(optimum[2] - optimum[3]), abs=1e-7)
    assert total_variation(*ends) > 0.1


def test_the_exponential_link_tilts_twice_as_far_as_its_beta_says(uniform):
    """½ logit p instead of logit p: at half the β it is DPO's optimum."""
    found = fit_policy(Pairwise(LogRatio(0.25), Exponential()), uniform).logps
    assert total_variation(found, uniform.optimum(0.5)) < 1e-7


def test_a_target_margin_inflates_what_was_certain_already(uniform):
    """SimPO with γ > 0 does not have the optimum of γ = 0: the target margin is not a reward of a response."""
    plain, pushed = (fit_policy(build("simpo", gamma_beta_ratio=g), uniform).logps for g in (0.0, 1.0))
    assert total_variation(plain, pushed) > 0.01


def test_the_error_of_sampled_comparisons_falls_with_the_root_of_their_number(general):
    """n comparisons, maximum likelihood: n·E‖û − r‖² is the trace of the inverse Fisher information, whatever n."""
    rng, objective = np.random.default_rng(0), build("dpo", beta=1.0)
    k, mass = 4, (2 * general.sampler * general.preference).numpy()
    apart = mass * (1 - np.eye(k))
    apart /= apart.sum()
    centre = np.eye(k) - 1 / k
    information = np.zeros((k, k))
    for i, j in product(range(k), repeat=2):
        step = np.eye(k)[i] - np.eye(k)[j]
        information += apart[i, j] * float(general.preference[j, i]) * np.outer(step, step) / 2  # each pair twice
    expected = np.trace(np.linalg.pinv(information))
    for n in (400, 6400):
        errors = []
        for _ in range(40):
            counts = rng.multinomial(n, apart.ravel()).reshape(k, k)
            both = counts + counts.T
            share = np.divide(counts, both, out=np.full((k, k), 0.5), where=both > 0)
            seen = replace(general, sampler=torch.from_numpy(both / both.sum()), preference=torch.from_numpy(share))
            rho = (fit_policy(objective, seen).logps - general.ref_logps).numpy()
            errors.append(np.square(centre @ (rho - general.reward.numpy())).sum())
        assert n * np.mean(errors) == pytest.approx(expected, rel=0.3)


def test_soft_labels_and_drawn_labels_have_the_same_population(general):
    """p·ℓ(w ≻ l) + (1 − p)·ℓ(l ≻ w) is the mean over labels drawn with p."""
    for name, knobs in (("dpo", {"beta": 0.5}), ("orpo", {"odds_weight": 0.5}), ("nca", {"beta": 0.5})):
        objective = build(name, **knobs)
        drawn, soft = (
            fit_policy(objective, general, view_of(objective, comparisons(general, s))) for s in ("sampled", "soft")
        )
        assert drawn.minimum.loss == pytest.approx(soft.minimum.loss, abs=1e-12)
        assert total_variation(drawn.logps, soft.logps) < 1e-9
