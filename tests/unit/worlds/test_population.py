"""Populations are infinite data: masses, orders and losses compared with sums over samples."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from torch import tensor

from tiltlm.objectives import build
from tiltlm.worlds.finite import FiniteWorld, product_sampler, total_variation
from tiltlm.worlds.population import (
    comparisons,
    demonstrations,
    fit_policy,
    population_loss,
    rankings,
    scored,
    unpaired,
    view_of,
)

WORLD = FiniteWorld.of(tensor([0.0, 0.4, 1.0, -0.7]), tensor([3, 1, 7, 2]), tensor([0.3, 0.0, -0.5, 0.2]))
LOGPS = torch.log_softmax(tensor([1.0, -1.0, 0.0, 2.0]).double(), 0)


@pytest.mark.parametrize("labels", ["sampled", "soft"])
def test_comparisons_carry_the_mass_of_each_outcome(labels):
    world = replace(WORLD, sampler=product_sampler(WORLD.ref_logps))
    view = view_of(build("dpo"), comparisons(world, labels))
    mass = np.zeros((4, 4))
    for w, r, weight, p in zip(view.chosen, view.rejected, view.weight, view.preference, strict=True):
        mass[w, r] += float(weight * p)
        mass[r, w] += float(weight * (1 - p))
    expected = 2 * (world.sampler * world.preference).numpy()
    np.testing.assert_allclose(mass, expected, atol=1e-14)
    assert view.num_examples == 1
    assert float(view.weight.sum()) == pytest.approx(1.0)


def test_comparisons_carry_the_gold_rewards_as_scores():
    view = view_of(build("rebel"), comparisons(WORLD))
    torch.testing.assert_close(view.gap, WORLD.reward[view.chosen] - WORLD.reward[view.rejected])


def test_labels_are_the_two_sides_of_comparisons():
    """Loss = ½ Σ_y [chosen mass·ℓ(desirable) + rejected mass·ℓ(undesirable)]."""
    rho = (LOGPS - WORLD.ref_logps).numpy()
    good = 1 / (1 + np.exp(0.5 * (rho - 0.2)))
    expected = 0.5 * (WORLD.chosen_mass.numpy() @ good + WORLD.rejected_mass.numpy() @ (1 - good))
    objective = build("kto", beta=0.5)
    found = population_loss(objective, WORLD, LOGPS, view_of(objective, unpaired(WORLD), baseline=0.2))
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_demonstrations_have_the_loss_of_a_mean_over_tokens():
    """E[−log π(y)] / E[T(y)], y a winner of comparisons, or a sample of a given policy."""
    for mass, population in (
        (WORLD.chosen_mass, demonstrations(WORLD)),
        (LOGPS.exp(), demonstrations(WORLD, LOGPS)),
    ):
        expected = -(mass @ LOGPS) / (mass @ WORLD.lengths.double())
        found = population_loss(build("sft"), WORLD, LOGPS, view_of(build("sft"), population))
        assert float(found) == pytest.approx(float(expected), rel=1e-12)


def test_rankings_are_plackett_luce():
    """All orders have probability Π_k e^{r_k}/Σ_{j≥k} e^{r_j}; the order of two responses is Bradley–Terry."""
    rows, slots = rankings(WORLD)
    assert len(rows) == len(slots) == 24
    mass = {row.ranks: row.weight / 24 for row in rows}
    reward = WORLD.reward.numpy()
    for order in permutations(range(4)):
        expected = np.prod([np.exp(reward[k]) / np.exp(reward[list(order[i:])]).sum() for i, k in enumerate(order)])
        assert mass[tuple(order.index(k) + 1 for k in range(4))] == pytest.approx(expected, rel=1e-12)
    first = sum(m for ranks, m in mass.items() if ranks[1] < ranks[3])
    assert first == pytest.approx(float(WORLD.preference[1, 3]), rel=1e-12)


def test_a_scored_list_is_the_world_itself():
    (row,), slots = scored(WORLD)
    assert row.scores == tuple(WORLD.reward.tolist())
    assert slots == [[0, 1, 2, 3]]
    assert [response.num_tokens for response in row.responses] == WORLD.lengths.tolist()


def test_a_fit_starts_where_it_is_told_and_ends_at_the_same_place():
    objective = build("dpo", beta=0.5)
    ends = [fit_policy(objective, WORLD, start=start) for start in (None, tensor([3.0, -2.0, 0.0, 1.0]).double())]
    for end in ends:
        assert end.finite
        assert end.minimum.gradient_norm < 1e-10
        assert total_variation(end.logps, WORLD.optimum(0.5)) < 1e-9


def test_samples_converge_to_the_population_loss():
    """40,000 labelled comparisons, drawn one by one: the mean loss agrees within its error."""
    rng, objective = np.random.default_rng(0), build("dpo", beta=0.5)
    i, j = rng.integers(0, 4, (2, 40_000))
    wins = rng.random(40_000) < WORLD.preference.numpy()[i, j]
    w, r = np.where(wins, i, j), np.where(wins, j, i)
    z = 0.5 * (LOGPS - WORLD.ref_logps).numpy()
    losses = np.log1p(np.exp(z[r] - z[w]))
    error = losses.std() / 200
    assert abs(losses.mean() - float(population_loss(objective, WORLD, LOGPS))) < 4 * error
