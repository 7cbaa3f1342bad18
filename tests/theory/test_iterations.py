"""Rounds of training in closed form: the limit depends on how the reference changes between rounds."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tiltlm.objectives import Objective, build
from tiltlm.worlds.finite import FiniteWorld, kl, product_sampler, total_variation
from tiltlm.worlds.population import demonstrations, fit_policy, view_of

ROUNDS = 3


def on_policy(world: FiniteWorld, policy: Tensor) -> FiniteWorld:
    """Return the world with comparisons of the policy's own samples."""
    return replace(world, sampler=product_sampler(policy))


def tilted(world: FiniteWorld, strength: float) -> Tensor:
    return torch.log_softmax(world.ref_logps + strength * world.reward, 0)


def rounds_with_reset(objective: Objective, world: FiniteWorld) -> Tensor:
    """Each round compares samples of the current policy and takes it as its reference."""
    for _ in range(ROUNDS):
        policy = fit_policy(objective, on_policy(world, world.ref_logps)).logps
        world = replace(world, ref_logps=policy)
    return world.ref_logps


def test_each_reset_of_the_reference_adds_one_tilt(uniform):
    """n rounds of DPO with the reference reset each time: π_ref·exp(n·r/β)/Z."""
    found = rounds_with_reset(build("dpo", beta=2.0), uniform)
    assert total_variation(found, tilted(uniform, ROUNDS / 2.0)) < 1e-7


def test_online_dpo_with_a_fixed_reference_stays_at_the_optimum(uniform):
    """Whatever policy the comparisons are drawn from, the optimum is π*: a second round changes nothing."""
    policy = uniform.ref_logps
    for _ in range(ROUNDS):
        policy = fit_policy(build("dpo", beta=0.5), on_policy(uniform, policy)).logps
        assert total_variation(policy, uniform.optimum(0.5)) < 1e-7


@pytest.mark.parametrize("alpha", [0.25, 1.0])
def test_a_reference_that_moves_softly_adds_its_share_of_a_tilt(uniform, alpha):
    """Logits of the reference ← α·policy + (1−α)·reference after each round: π_ref·exp(nα·r/β)/Z; α = 1 is hard."""
    world = uniform
    for _ in range(ROUNDS):
        policy = fit_policy(build("dpo", beta=1.0), world).logps
        world = replace(world, ref_logps=torch.log_softmax(alpha * policy + (1 - alpha) * world.ref_logps, 0))
    assert total_variation(world.ref_logps, tilted(uniform, ROUNDS * alpha)) < 1e-7


def test_rebel_is_mirror_descent(uniform):
    """n rounds of regression on reward gaps: π_ref·exp(nη·r)/Z."""
    found = rounds_with_reset(build("rebel", eta=0.4), uniform)
    assert total_variation(found, tilted(uniform, ROUNDS * 0.4)) < 1e-7


@pytest.mark.parametrize("per_round", [2, 3])
def test_imitating_the_best_of_k_again_and_again_is_the_best_of_many(uniform, per_round):
    """RAFT: each round imitates the best of K of the round before; after n rounds that is best-of-Kⁿ."""
    world = uniform
    for _ in range(ROUNDS):
        view = view_of(build("sft"), demonstrations(world, world.best_of_n(per_round)))
        world = replace(world, ref_logps=fit_policy(build("sft"), world, view).logps)
    assert total_variation(world.ref_logps, uniform.best_of_n(per_round**ROUNDS)) < 1e-7


def nash(world: FiniteWorld, tau: float) -> Tensor:
    """π ∝ π_ref·exp(P(· ≻ π)/τ), by damped iteration."""
    policy = world.ref_logps
    for _ in range(400):
        step = torch.log_softmax(world.ref_logps + world.win_rates(policy) / tau, 0)
        policy = torch.log_softmax((policy + step) / 2, 0)
    return policy


def test_ipo_on_its_own_samples_rests_at_the_nash_policy(uniform):
    """With comparisons drawn from π itself, IPO's optimum is ∝ π_ref·exp(P(· ≻ π)/τ): Nash-MD's fixed point."""
    cyclic = torch.tensor([[0.5, 0.9, 0.2, 0.6], [0.1, 0.5, 0.8, 0.3], [0.8, 0.2, 0.5, 0.7], [0.4, 0.7, 0.3, 0.5]])
    world = replace(uniform, preference=cyclic.double())
    policy = nash(world, 0.3)
    assert total_variation(fit_policy(build("ipo", tau=0.3), on_policy(world, policy)).logps, policy) < 1e-7


def test_multiplicative_weights_end_at_the_best_response(uniform):
    """π ← π·exp(ηP̄_π)/Z under Bradley–Terry preferences puts all mass on the highest reward."""
    policy = uniform.ref_logps
    for _ in range(400):
        policy = torch.log_softmax(policy + 1.0 * uniform.win_rates(policy), 0)
    assert float(policy.exp()[uniform.reward.argmax()]) == pytest.approx(1.0, abs=1e-6)


def test_one_round_of_dno_beats_the_policy_before_it(uniform):
    """With r = P(y ≻ π_t) the round ends at π_t·exp(r/η)/Z, which wins by ½ + η·[KL(π′‖π) + KL(π‖π′)] exactly."""
    eta, before = 0.7, uniform.ref_logps
    world = replace(uniform, reward=uniform.win_rates(before))
    after = fit_policy(build("dno", eta=eta), world).logps
    assert total_variation(after, torch.log_softmax(before + world.reward / eta, 0)) < 1e-7
    gain = eta * float(kl(after, before) + kl(before, after))
    assert uniform.win_rate(after, before) == pytest.approx(0.5 + gain, abs=1e-9)


def test_sppo_is_multiplicative_weights_while_its_steps_are_small(uniform):
    """The exact step is π·exp(ηP̄)/Z; SPPO takes η/2 for log Z, which costs more the larger η = 1/β is."""
    world = on_policy(uniform, uniform.ref_logps)
    distances = []
    for eta in (0.5, 2.0, 10.0):
        exact = torch.log_softmax(world.ref_logps + eta * world.win_rates(), 0)
        distances.append(total_variation(fit_policy(build("sppo", beta=1 / eta), world).logps, exact))
    assert distances[0] < 1e-3
    assert distances[0] < distances[1] < distances[2]
    assert distances[2] > 0.02
