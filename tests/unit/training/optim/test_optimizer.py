"""AdamW's memory and the policy's weights survive a round trip; the schedule is a pure function of the step."""

import pytest
import torch

from support.errors import raises
from support.toy_training import ToyPolicy
from tiltlm.core import RunError
from tiltlm.training.checkpoints.tensors import optimizer_tensors, policy_tensors, restore_optimizer, restore_policy
from tiltlm.training.optim.optimizer import (
    build_optimizer,
    clip_gradients,
    learning_rate_factor,
    share_unmoved,
)
from tiltlm.training.training_settings import TrainingSettings


def test_only_matrices_decay():
    policy = ToyPolicy()
    policy.embedding.weight.requires_grad_(False)
    decayed, kept = build_optimizer(policy, TrainingSettings(weight_decay=0.1), 1e-3).param_groups
    assert {id(p) for p in decayed["params"]} == {id(policy.layer.linear.weight), id(policy.head.weight)}
    assert decayed["weight_decay"] == 0.1
    assert kept["weight_decay"] == 0.0
    assert len(kept["params"]) == 3


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [0, 0.5, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
        ("constant", [0, 0.5, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("cosine", [0, 0.5, *(0.5 * (1 + torch.cos(torch.arange(8, dtype=torch.float64) / 8 * torch.pi))).tolist()]),
    ],
)
def test_schedules(schedule, expected):
    factor = learning_rate_factor(TrainingSettings(warmup_ratio=0.2, schedule=schedule), 10)
    assert [factor(i) for i in range(10)] == pytest.approx(expected)


def test_a_run_of_one_step_learns():
    assert learning_rate_factor(TrainingSettings(warmup_ratio=0.1), 1)(0) == 1


def trained(steps):
    policy = ToyPolicy(seed=3)
    optimizer = build_optimizer(policy, TrainingSettings(), 1e-2)
    take(policy, optimizer, steps)
    return policy, optimizer


def take(policy, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        sum((p**2).sum() for p in policy.parameters()).backward()
        optimizer.step()


def test_a_round_trip_continues_bit_for_bit():
    policy, optimizer = trained(3)
    fresh = ToyPolicy(seed=9)
    again = build_optimizer(fresh, TrainingSettings(), 1e-2)
    restore_policy(fresh, {k: v.clone() for k, v in policy_tensors(policy).items()})
    restore_optimizer(fresh, again, {k: v.clone() for k, v in optimizer_tensors(policy, optimizer).items()})
    take(policy, optimizer, 2)
    take(fresh, again, 2)
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), fresh.parameters(), strict=True))


def test_tied_and_frozen_weights_are_stored_once_or_not_at_all():
    policy = ToyPolicy()
    policy.head.weight = policy.embedding.weight
    policy.norm.requires_grad_(False)
    assert set(policy_tensors(policy)) == {"embedding.weight", "layer.linear.weight", "layer.linear.bias"}


def test_another_model_is_refused():
    policy, optimizer = trained(1)
    weights, memory = policy_tensors(policy), optimizer_tensors(policy, optimizer)
    with raises(RunError, "other_model", mentions=["head.weight"]):
        restore_policy(policy, {k: v for k, v in weights.items() if k != "head.weight"})
    with raises(RunError, "other_optimizer_state", mentions=["norm.bias.exp_avg"]):
        restore_optimizer(policy, optimizer, {k: v for k, v in memory.items() if k != "norm.bias.exp_avg"})
    with raises(RunError, "other_model", mentions=["head.weight", "[11, 7]", "[11, 6]"]):
        restore_policy(policy, weights | {"head.weight": torch.zeros(11, 7)})


def test_clipping_returns_the_norm_before_it():
    p = torch.nn.Parameter(torch.zeros(2))
    p.grad = torch.tensor([3.0, 4.0])
    assert clip_gradients([p], None) == 5
    assert p.grad.tolist() == [3, 4]
    assert clip_gradients([p], 1.0) == 5
    assert p.grad.norm().item() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize(
    ("dtype", "rate", "least", "most"),
    [
        (torch.float32, 1e-6, 0, 0),
        (torch.bfloat16, 1e-2, 0, 0.01),
        (torch.bfloat16, 1e-4, 0.5, 0.95),
        (torch.bfloat16, 1e-6, 0.98, 1),  # biases of 0 move
        (torch.float32, 1e-9, 0.5, 1),
    ],
)
def test_weights_that_rounding_holds_are_those_that_a_step_does_not_move(dtype, rate, least, most):
    policy = ToyPolicy(dtype=dtype, width=64)
    share = share_unmoved(policy, rate)
    assert least <= share <= most
    before = torch.cat([p.detach().flatten() for p in policy.parameters()])
    optimizer = build_optimizer(policy, TrainingSettings(weight_decay=0.0), rate)
    for parameter in policy.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    after = torch.cat([p.detach().flatten() for p in policy.parameters()])
    assert float((before == after).double().mean()) == pytest.approx(share, abs=0.01)
