"""Gradients of each loss at known points, and what must have no gradient."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, tensor

from tiltlm.core import Comparison, Example, ResponseLogps, View, token_ids
from tiltlm.objectives import Objective, build, reduce_terms
from tiltlm.worlds.finite import FiniteWorld
from tiltlm.worlds.population import comparisons, population_loss, unpaired, view_of

POLICY = tensor([-4.0, -2.0, -6.5, -3.0], dtype=torch.float64)
"""log π(y): not normalised, as four responses of a model are not."""
NEARBY = tensor([-1.5, -1.25, -2.75, -1.0], dtype=torch.float64)
"""Likewise, close to the reference, where no link is saturated."""


def pair(world: FiniteWorld, chosen: int = 0, rejected: int = 2, p: float = 1.0, offset: float = 0.0, gap: float = 2.0):
    """Return one comparison among the world's responses; the chosen score is higher by `gap`."""
    (example,), slots = comparisons(world)
    scores = tuple(gap if k == chosen else 0.0 for k in range(world.num_responses))
    rows = (Comparison(chosen, rejected, preference=p, offset=offset),)
    return [Example("pair", token_ids([0]), example.responses, rows, scores=scores)], slots


def slopes(objective: Objective, world: FiniteWorld, view: View, policy: Tensor = POLICY) -> Tensor:
    """∂ℓ/∂log π(y) of each response."""
    logps = policy.clone().requires_grad_()
    population_loss(objective, world, logps, view).backward()
    return logps.grad


def reward_slopes(objective: Objective, world: FiniteWorld, policy: Tensor = NEARBY) -> tuple[float, float]:
    """∂ℓ/∂r_w and ∂ℓ/∂r_l of one comparison, through the reward that each has of its own log-probability."""
    logps = policy.clone().requires_grad_()
    (inner,) = torch.autograd.grad(objective.reward(world.responses(logps)).sum(), logps)
    outer = slopes(objective, world, view_of(objective, pair(world)), policy)
    return float(outer[0] / inner[0]), float(outer[2] / inner[2])


MARGIN_ONLY = [
    ("dpo", {"beta": 0.2}),
    ("cdpo", {"beta": 0.2, "label_smoothing": 0.2}),
    ("robust_dpo", {"beta": 0.2, "label_smoothing": 0.2}),
    ("ipo", {"tau": 0.4}),
    ("ipo_mean", {"tau": 0.4}),
    ("rso", {"beta": 0.2, "delta": 1.0}),
    ("slic", {"delta": 5.0, "nll_weight": 0.0}),
    ("odpo", {"beta": 0.2, "alpha": 0.5}),
    ("rebel", {"eta": 0.5}),
    ("simpo", {"beta": 2.0, "gamma_beta_ratio": 0.5}),
    ("cpo", {"beta": 0.2, "nll_weight": 0.0}),
    ("alphapo", {"alpha": 0.25, "beta": 2.0, "gamma_beta_ratio": 0.5}),
    ("ln_dpo", {"beta": 2.0}),
    ("length_dpo", {"beta": 0.2, "alpha": 0.1}),
    ("f_dpo", {"beta": 0.2, "divergence": "jensen_shannon"}),
    ("f_dpo", {"beta": 0.2, "divergence": "forward_kl"}),
    ("exo", {"beta": 0.2, "label_smoothing": 0.1}),
    ("discopop", {"beta": 0.2, "tau": 0.05}),
    ("rainbowpo", {"beta": 2.0, "alpha": 0.25, "gamma_beta_ratio": 0.1}),
    ("dno", {"eta": 0.5}),
    ("wpo", {"beta": 0.2}),
    ("aot", {"beta": 0.2, "label_smoothing": 0.1}),
]
ABSOLUTE = [
    ("dpo_nll", {"beta": 0.2, "nll_weight": 1.0}),
    ("cpo", {"beta": 0.2, "nll_weight": 1.0}),
    ("slic", {"delta": 5.0, "nll_weight": 1.0}),
    ("orpo", {"odds_weight": 0.5}),
    ("cal_dpo", {"beta": 0.5}),
    ("dpop", {"beta": 0.2, "positive_weight": 5.0}),
    ("apo_zero", {"beta": 0.2}),
    ("apo_down", {"beta": 0.2}),
    ("nca", {"beta": 0.2}),
    ("bco_pair", {"beta": 0.2}),
    ("sppo", {"beta": 0.2}),
]


def named(cases):
    return [
        pytest.param(name, knobs, id=" ".join([name, *(f"{k}={v}" for k, v in knobs.items())])) for name, knobs in cases
    ]


@pytest.mark.parametrize(("name", "knobs"), named(MARGIN_ONLY))
def test_losses_of_a_margin_control_only_the_difference_of_rewards(uniform, name, knobs):
    """∂ℓ/∂r_w = −∂ℓ/∂r_l: a constant added to both rewards changes nothing."""
    up, down = reward_slopes(build(name, **knobs), uniform)
    assert up + down == pytest.approx(0.0, abs=1e-10 * abs(up))
    assert abs(up) > 1e-4


@pytest.mark.parametrize(("name", "knobs"), named(ABSOLUTE))
def test_losses_of_absolute_rewards_control_more(uniform, name, knobs):
    up, down = reward_slopes(build(name, **knobs), uniform)
    assert abs(up + down) > 1e-3


@pytest.mark.parametrize(("name", "knobs"), named(MARGIN_ONLY + ABSOLUTE))
def test_a_soft_label_of_zero_is_the_swapped_pair(uniform, name, knobs):
    objective = build(name, **knobs)
    if "preference" not in objective.uses:
        pytest.skip("its label comes from the scores")
    swapped = view_of(objective, pair(uniform, 2, 0, p=1.0, offset=-0.3 if "offset" in objective.uses else 0.0))
    soft = view_of(objective, pair(uniform, 0, 2, p=0.0, offset=0.3 if "offset" in objective.uses else 0.0))
    torch.testing.assert_close(
        population_loss(objective, uniform, POLICY, soft), population_loss(objective, uniform, POLICY, swapped)
    )


@pytest.mark.parametrize(
    ("name", "knobs"),
    named(
        [
            c
            for c in MARGIN_ONLY
            if c[0] in ("dpo", "ipo", "simpo", "cpo", "ln_dpo", "ipo_mean", "rso", "exo", "discopop")
        ]
    ),
)
def test_a_tie_has_no_side(uniform, name, knobs):
    """At p = ½ the loss does not depend on which response is called chosen."""
    objective = build(name, **knobs)
    one, other = (view_of(objective, pair(uniform, w, r, p=0.5)) for w, r in ((0, 2), (2, 0)))
    torch.testing.assert_close(
        population_loss(objective, uniform, POLICY, one), population_loss(objective, uniform, POLICY, other)
    )


def test_dpo_weighs_a_pair_by_how_wrong_it_is(uniform):
    """∂ℓ/∂log π(y_w) = −β·σ(−z) = −∂ℓ/∂log π(y_l), checked also by central differences."""
    beta, objective = 0.3, build("dpo", beta=0.3)
    view = view_of(objective, pair(uniform))
    rho = POLICY - uniform.ref_logps
    weight = beta / (1 + math.exp(beta * float(rho[0] - rho[2])))
    expected = tensor([-weight, 0.0, weight, 0.0], dtype=torch.float64)
    torch.testing.assert_close(slopes(objective, uniform, view), expected)
    h = 1e-6 * torch.eye(4).double()
    around = [float(population_loss(objective, uniform, POLICY + s * h[k], view)) for k in range(4) for s in (1, -1)]
    differences = (np.array(around[::2]) - np.array(around[1::2])) / 2e-6
    np.testing.assert_allclose(differences, expected.numpy(), atol=1e-8)


@pytest.mark.parametrize("side", [-1, 0, 1])
def test_ipo_pulls_back_beyond_its_target(uniform, side):
    """The slope is zero at 1/(2τ) and changes sign there, so a larger margin has a loss too."""
    policy, objective = uniform.ref_logps.clone(), build("ipo", tau=0.25)
    policy[0] += 2.0 + side
    assert float(slopes(objective, uniform, view_of(objective, pair(uniform)), policy)[0]) == pytest.approx(2.0 * side)


@pytest.mark.parametrize(("lead", "slope"), [(4.9, -1.0), (5.1, 0.0)])
def test_slics_hinge_lets_go_at_its_margin(uniform, lead, slope):
    policy, objective = (
        tensor([-2.0, 0.0, -2.0 - lead, 0.0], dtype=torch.float64),
        build("slic", delta=5.0, nll_weight=0.0),
    )
    found = slopes(objective, uniform, view_of(objective, pair(uniform)), policy)
    torch.testing.assert_close(found, tensor([slope, 0.0, -slope, 0.0], dtype=torch.float64))


def test_orpos_odds_stay_bounded_for_a_sure_chosen_response(uniform):
    """∂(−log σ(Δlo))/∂A_w = −σ(−Δlo)/(1 − p_w): 0/0 as p_w → 1, where it tends to the odds of the rejected one."""
    policy, objective = tensor([-0.003, -2.0, -6.5, -3.0], dtype=torch.float64), build("orpo", odds_weight=0.7)
    p_w, p_l = math.exp(-0.001), math.exp(-6.5 / 7)
    odds_ratio = p_w / (1 - p_w) / (p_l / (1 - p_l))
    found = slopes(objective, uniform, view_of(objective, pair(uniform)), policy)
    assert float(found[0]) * 3 == pytest.approx(-1 - 0.7 / (1 + odds_ratio) / (1 - p_w), rel=1e-9)
    assert float(found[0]) * 3 == pytest.approx(-1 - 0.7 * p_l / (1 - p_l), rel=5e-3)


def test_orpos_odds_explode_for_a_sure_rejected_response(uniform):
    """∂(−log σ(Δlo))/∂A_l = σ(−Δlo)/(1 − p_l): without bound as p_l → 1."""
    objective = build("orpo", odds_weight=0.7)
    for scale in (1e-2, 1e-4):
        policy = tensor([-4.0, -2.0, -7.0 * scale, -3.0], dtype=torch.float64)
        found = slopes(objective, uniform, view_of(objective, pair(uniform)), policy)
        assert float(found[2]) * 7 == pytest.approx(0.7 / scale, rel=0.02)


def test_kto_loses_interest_on_both_sides(uniform):
    """∂ℓ/∂log π = ∓λβσ′(β(ρ − z0)): small for very good and very bad responses; none flows through z0."""
    beta, z0, objective = 0.5, 0.7, build("kto", beta=0.5, desirable_weight=1.2)
    rho = (POLICY - uniform.ref_logps).numpy()
    value = 1 / (1 + np.exp(-beta * (rho - z0)))
    good, bad = uniform.chosen_mass.numpy(), uniform.rejected_mass.numpy()
    expected = 0.5 * (bad - 1.2 * good) * beta * value * (1 - value)
    found = slopes(objective, uniform, view_of(objective, unpaired(uniform), baseline=z0))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)


def test_bco_moves_no_reward_through_its_shift(uniform):
    """−σ(−(r̂ − δ)) on desirable and σ(r̂ − δ) on undesirable responses, δ held."""
    beta, delta, objective = 0.5, -0.4, build("bco", beta=0.5)
    rewards = beta * (POLICY - uniform.ref_logps).numpy()
    chance = 1 / (1 + np.exp(-(rewards - delta)))
    good, bad = uniform.chosen_mass.numpy(), uniform.rejected_mass.numpy()
    found = slopes(objective, uniform, view_of(objective, unpaired(uniform), baseline=delta))
    np.testing.assert_allclose(found.numpy(), 0.5 * beta * (bad * chance - good * (1 - chance)), rtol=1e-10)


@pytest.mark.parametrize(("name", "chosen", "rejected"), [("apo_zero", -0.25, 0.25), ("apo_down", 0.0, 0.25)])
def test_which_side_apo_moves_first(uniform, name, chosen, rejected):
    """At π = π_ref, `zero` raises the chosen and lowers the rejected response; `down` moves only the rejected one."""
    up, down = reward_slopes(build(name, beta=0.2), uniform, uniform.ref_logps)
    assert up == pytest.approx(chosen, abs=1e-12)
    assert down == pytest.approx(rejected, abs=1e-12)


@pytest.mark.parametrize(("drop", "factor"), [(0.5, 6.0), (-0.5, 1.0)])
def test_dpop_pulls_harder_only_below_the_reference(uniform, drop, factor):
    """∂z/∂log π(y_w) = β(1 + λ) where the chosen response fell below the reference and β above; ∂z/∂log π(y_l) = −β."""
    policy, objective = POLICY.clone(), build("dpop", beta=0.3, positive_weight=5.0)
    policy[0] = uniform.ref_logps[0] - drop
    found = slopes(objective, uniform, view_of(objective, pair(uniform)), policy)
    assert float(-found[0] / found[2]) == pytest.approx(factor, rel=1e-12)


def test_wpos_weight_carries_no_gradient(uniform):
    """ℓ = ω·DPO with ω constant: the gradient is ω times DPO's, ω = min(1, w_w·w_l) computed here."""
    wpo, dpo = build("wpo", beta=0.2), build("dpo", beta=0.2)
    view = view_of(dpo, pair(uniform))
    collision = math.log(float((2 * POLICY).exp().sum()))
    means = (POLICY - collision) / uniform.lengths
    weight = min(1.0, math.exp(float(means[0] + means[2])))
    assert 0 < weight < 1
    torch.testing.assert_close(slopes(wpo, uniform, view), weight * slopes(dpo, uniform, view))
    ratio = population_loss(wpo, uniform, POLICY, view) / population_loss(dpo, uniform, POLICY, view)
    assert float(ratio) == pytest.approx(weight, rel=1e-12)


def test_wpos_weight_never_exceeds_one(uniform):
    """Two responses that are likelier than the average draw of the policy: the product is above 1 and clamped to 1."""
    policy = torch.log_softmax(tensor([3.0, 3.25, -1.0, -2.0], dtype=torch.float64), 0)
    means = (policy - torch.logsumexp(2 * policy, 0)) / uniform.lengths
    assert float(means[1] + means[0]) > 0.05
    wpo, dpo = build("wpo", beta=0.2), build("dpo", beta=0.2)
    view = view_of(dpo, pair(uniform, chosen=1, rejected=0))
    torch.testing.assert_close(population_loss(wpo, uniform, policy, view), population_loss(dpo, uniform, policy, view))


def position_kls(values: list[float], policy: Tensor, world: FiniteWorld) -> tuple[ResponseLogps, Tensor]:
    """Return the world's responses with these D(y) = Σ_t KL per response, and those as a leaf."""
    kls = tensor(values, dtype=torch.float64).requires_grad_()
    plain = world.responses(policy)
    return replace(plain, extras={**plain.extras, "ref_kls": (kls / world.lengths)[plain.response_index]}), kls


def test_tdpo2_holds_the_chosen_side(uniform):
    """At α = 1 the value is the same and the gradient is not: TDPO1 has one for D_w and D_l, TDPO2 for D_l only."""
    slope, value = {}, {}
    for name, knobs in (("tdpo1", {"beta": 0.3}), ("tdpo2", {"beta": 0.3, "alpha": 1.0})):
        objective = build(name, **knobs)
        responses, kls = position_kls([0.4, 0.1, 1.3, 0.2], POLICY, uniform)
        view = view_of(objective, pair(uniform))
        loss = reduce_terms(objective(responses, view), view.counts())
        (slope[name],) = torch.autograd.grad(loss, kls)
        value[name] = loss.item()
    rho = POLICY - uniform.ref_logps
    margin = 0.3 * float(rho[0] - rho[2] - (1.3 - 0.4))
    weight = 0.3 / (1 + math.exp(margin))
    assert value["tdpo1"] == pytest.approx(math.log1p(math.exp(-margin)), rel=1e-12)
    assert value["tdpo1"] == pytest.approx(value["tdpo2"], rel=1e-12)
    torch.testing.assert_close(slope["tdpo1"], tensor([-weight, 0.0, weight, 0.0], dtype=torch.float64))
    torch.testing.assert_close(slope["tdpo2"], tensor([0.0, 0.0, weight, 0.0], dtype=torch.float64))


def test_an_offset_is_a_head_start_of_the_rejected_reward(uniform):
    """r_w − r_l − m: the loss at an offset is that of a rejected reward larger by as much."""
    objective, ahead = build("dpo", beta=0.5), POLICY + tensor([0.0, 0.0, 0.6, 0.0], dtype=torch.float64)
    with_offset = view_of(objective, pair(uniform, offset=0.3))
    without = view_of(objective, pair(uniform))
    torch.testing.assert_close(
        population_loss(objective, uniform, POLICY, with_offset), population_loss(objective, uniform, ahead, without)
    )


@pytest.mark.parametrize("chosen", [0, 1])
def test_one_step_of_dpo_cannot_displace_a_table_but_drains_the_others(uniform, chosen):
    """Tabular logits, one pair: dS_w ∝ 1 − π_w + π_l > 0, and dS_y ∝ π_l − π_w for every other response."""
    rejected, objective = 3, build("dpo", beta=0.5)
    logits = tensor([0.2, 1.4, -0.3, 0.6], dtype=torch.float64, requires_grad=True)
    view = view_of(objective, pair(uniform, chosen, rejected))
    loss = population_loss(objective, uniform, torch.log_softmax(logits, 0), view)
    (slope,) = torch.autograd.grad(loss, logits)
    policy = torch.softmax(logits, 0).detach()
    moved = -slope + policy @ slope  # d log π along gradient descent on the logits
    weight = float(-slope[chosen])
    gap = policy[rejected] - policy[chosen]
    expected = torch.full((4,), float(gap), dtype=torch.float64)
    expected[chosen] += 1
    expected[rejected] -= 1
    torch.testing.assert_close(moved, weight * expected)
    assert moved[chosen] > 0
    others = [k for k in range(4) if k not in (chosen, rejected)]
    assert (bool((moved[others] > 0).all()), float(gap) > 0) in [(True, True), (False, False)]


@pytest.mark.parametrize(("chosen_feature", "displaced"), [([1.0, 0.2], False), ([1.0, 1.4], True)])
def test_features_can_displace_the_chosen_response(uniform, chosen_feature, displaced):
    """Logits Φθ: dS_w ∝ ⟨φ_w − φ̄, φ_w − φ_l⟩, φ̄ the policy's mean feature; where it is negative π_w falls."""
    features = tensor([chosen_feature, [2.0, 0.0], [1.0, 2.0], [-1.0, 0.5]], dtype=torch.float64)
    objective, theta = build("dpo", beta=0.5), tensor([0.3, 0.2], dtype=torch.float64, requires_grad=True)
    logps = torch.log_softmax(features @ theta, 0)
    (slope,) = torch.autograd.grad(
        population_loss(objective, uniform, logps, view_of(objective, pair(uniform))), theta, retain_graph=True
    )
    (ascent,) = torch.autograd.grad(logps[0], theta)
    moved = float(-slope @ ascent)
    centre = logps.detach().exp() @ features
    direction = float((features[0] - centre) @ (features[0] - features[2]))
    assert np.sign(moved) == np.sign(direction)
    assert (moved < 0) == displaced


def test_ktos_baseline_is_pooled_and_clamped_once():
    """z0 = max(0, Σ/n) over the whole step; packs of −6 and +2 nats do not each clamp."""
    statistic = build("kto", beta=0.5).statistic
    assert statistic.settle([6.0, 4.0], ()) == (1.5, ())
    assert statistic.settle([-6.0 + 2.0, 4.0], ()) == (0.0, ())
    assert statistic.shift(1.5) == 0.75


def test_bcos_shift_lies_between_the_classes_however_many_of_each(uniform):
    """δ = ½(mean of desirable + mean of undesirable rewards); one running mean over both would lean to the larger."""
    objective = build("bco", beta=0.5)
    view = view_of(objective, unpaired(uniform))
    sums = objective.statistic.sums(uniform.responses(POLICY), view)
    mean = 0.5 * float((POLICY - uniform.ref_logps).mean())
    assert objective.statistic.settle(sums.tolist(), ())[0] == pytest.approx(mean)
    delta, memory = objective.statistic.settle([6.0, 2.0, -8.0, 8.0], ())
    assert delta == pytest.approx((3.0 - 1.0) / 2)
    assert objective.statistic.settle([0.0, 2.0, 0.0, 0.0], memory)[0] == pytest.approx((1.5 - 1.0) / 2)
