"""The finite world's sums against numpy, and its errors."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import tensor

from support.errors import raises
from tiltlm.core import ConfigError
from tiltlm.worlds.finite import FiniteWorld, kl, product_sampler, tilt, total_variation, uniform_sampler

REWARD, LENGTHS = tensor([0.0, 0.4, 1.0, -0.7]), tensor([3, 1, 7, 2])
REFERENCE = tensor([0.3, 0.0, -0.5, 0.2])
WORLD = FiniteWorld.of(REWARD, LENGTHS, REFERENCE)
P0 = np.exp(REFERENCE.double().numpy()) / np.exp(REFERENCE.double().numpy()).sum()
R = REWARD.double().numpy()


def test_the_tilt_and_its_partition_function():
    weights = P0 * np.exp(R / 0.5)
    np.testing.assert_allclose(WORLD.optimum(0.5).exp().numpy(), weights / weights.sum(), rtol=1e-12)
    assert WORLD.log_partition(0.5) == pytest.approx(np.log(weights.sum()), abs=1e-12)
    np.testing.assert_allclose(tilt(WORLD.ref_logps, WORLD.reward, -0.5).exp().sum(), 1.0, rtol=1e-12)


def test_divergence_value_and_distance():
    policy = torch.log_softmax(tensor([1.0, -1.0, 0.0, 2.0]).double(), 0)
    p = policy.exp().numpy()
    spent = (p * np.log(p / P0)).sum()
    assert WORLD.kl_to_reference(policy) == pytest.approx(spent, abs=1e-12)
    assert WORLD.expected_reward(policy) == pytest.approx(p @ R, abs=1e-12)
    assert WORLD.value(policy, 0.3) == pytest.approx(p @ R - 0.3 * spent, abs=1e-12)
    assert total_variation(policy, WORLD.ref_logps) == pytest.approx(np.abs(p - P0).sum() / 2, abs=1e-12)


def test_a_response_without_mass_adds_nothing_to_a_divergence():
    some = torch.log(tensor([0.5, 0.5, 0.0, 0.0]).double())
    assert float(kl(some, WORLD.ref_logps)) == pytest.approx(np.log(0.5 / P0[:2]).mean(), abs=1e-12)


def test_preferences_and_win_rates():
    P = 1 / (1 + np.exp(R[None, :] - R[:, None]))
    np.testing.assert_allclose(WORLD.preference.numpy(), P, rtol=1e-12)
    np.testing.assert_allclose(WORLD.win_rates().numpy(), P @ P0, rtol=1e-12)
    policy = WORLD.optimum(0.5)
    assert WORLD.win_rate(policy) == pytest.approx(policy.exp().numpy() @ P @ P0)
    assert WORLD.win_rate(policy, policy) == pytest.approx(0.5)


def test_who_is_chosen_and_who_rejected():
    """2μP̄ and 2μ(1 − P̄) for a product sampler: each sums to 1."""
    world = replace(WORLD, sampler=product_sampler(WORLD.ref_logps))
    wins = world.win_rates().numpy()
    np.testing.assert_allclose(world.chosen_mass.numpy(), 2 * P0 * wins, rtol=1e-12)
    np.testing.assert_allclose(world.rejected_mass.numpy(), 2 * P0 * (1 - wins), rtol=1e-12)
    assert float(uniform_sampler(4).sum()) == pytest.approx(1.0)


def test_best_of_one_is_the_reference_and_the_best_take_all():
    np.testing.assert_allclose(WORLD.best_of_n(1).numpy(), WORLD.ref_logps.numpy(), atol=1e-12)
    assert float(WORLD.best_of_n(500).exp()[2]) == pytest.approx(1.0, abs=1e-12)


def test_responses_have_the_sums_means_and_counts_they_should():
    logps = WORLD.optimum(0.5).requires_grad_()
    responses = WORLD.responses(logps)
    torch.testing.assert_close(responses.seq_logps, logps)
    torch.testing.assert_close(responses.mean_logps, logps / LENGTHS)
    torch.testing.assert_close(responses.log_ratios, logps - WORLD.ref_logps)
    assert responses.num_tokens.tolist() == LENGTHS.tolist()
    (gradient,) = torch.autograd.grad(responses.seq_logps.sum(), logps)
    assert gradient.tolist() == [1.0] * 4


def test_extras_are_those_of_the_one_decision():
    logps = WORLD.optimum(0.5)
    responses, p = WORLD.responses(logps), logps.exp().numpy()
    sums = {
        "log_collisions": np.log((p**2).sum()),
        "entropies": -(p * np.log(p)).sum(),
        "ref_kls": (P0 * np.log(P0 / p)).sum(),
        "ref_entropy_shares": -(P0 * np.log(P0)).sum() / np.log(4),
    }
    for name, value in sums.items():
        of_two = responses.extra(name)[responses.response_index == 2]
        assert len(of_two) == 7
        assert float(of_two.sum()) == pytest.approx(value, abs=1e-12), name


@pytest.mark.parametrize(
    ("part", "value", "code", "seen"),
    [
        ("lengths", tensor([1, 2]), "wrong_shape", ["[2]", "[4]"]),
        ("lengths", tensor([1, 0, 2, 3]), "not_positive", ["lengths[1]", "0"]),
        ("ref_logps", torch.zeros(3).double(), "wrong_shape", ["[3]", "[4]"]),
        ("preference", torch.full((4, 4), 0.6).double(), "not_probabilities", []),
        ("sampler", torch.tril(torch.ones(4, 4)).double() / 10, "not_symmetric", []),
        ("sampler", torch.ones(4, 4).double(), "not_probabilities", ["16"]),
    ],
)
def test_what_it_refuses(part, value, code, seen):
    with raises(ConfigError, code, key=part, mentions=seen):
        replace(WORLD, **{part: value})


def test_best_of_none_is_refused():
    with raises(ConfigError, "out_of_range", key="n", mentions=["0"]):
        WORLD.best_of_n(0)


def test_a_world_needs_only_rewards():
    """The other arguments default to one token each, a uniform reference and uniform Bradley–Terry comparisons."""
    plain = FiniteWorld.of([0.0, 1.0, 2.0])
    full = FiniteWorld.of(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1, 1, 1]), torch.zeros(3))
    for name in ("reward", "lengths", "ref_logps", "preference", "sampler"):
        assert torch.equal(getattr(plain, name), getattr(full, name))
    assert plain.log_partition(0.5) == pytest.approx(np.log(np.exp([0.0, 2.0, 4.0]).mean()), abs=1e-12)
