"""The value head of a critic: what it reads, where its gradient goes, and that it learns."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from support.errors import raises
from support.tiny_policies import make_policy, some_trees
from tiltlm.core import ConfigError, Credit, Example, pack_trees
from tiltlm.objectives import build
from tiltlm.training.optim.optimizer import build_optimizer, set_learning_rate
from tiltlm.training.step import Stepper
from tiltlm.training.training_settings import TrainingSettings


def with_head(shares_body: bool = False, lora: bool = False):
    policy = make_policy(lora=lora)
    policy.add_value_head(shares_body=shares_body)
    return policy


def test_it_begins_at_zero_and_reads_the_states_that_predict_the_tokens():
    policy, forest = with_head(), pack_trees(some_trees(3))
    assert (policy(forest, frozenset({"values"})).extra("values") == 0).all()
    torch.nn.init.normal_(policy.value_head.linear.weight)
    found = policy(forest, frozenset({"values"})).extra("values")
    expected = policy.states(forest).rows @ policy.value_head.linear.weight[0] + policy.value_head.linear.bias
    torch.testing.assert_close(found, expected)
    assert "values" not in policy(forest).extras


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("shares_body", [False, True])
def test_gradient_reaches_the_body_only_if_it_is_shared(shares_body, lora):
    policy, forest = with_head(shares_body, lora), pack_trees(some_trees(3))
    torch.nn.init.normal_(policy.value_head.linear.weight)
    policy(forest, frozenset({"values"})).extra("values").sum().backward()
    body = [p.grad for name, p in policy.model.named_parameters() if p.requires_grad and p.grad is not None]
    assert policy.value_head.linear.weight.grad.abs().sum() > 0
    assert (sum(grad.abs().sum() for grad in body) > 0) == shares_body


def test_a_policy_without_one_is_refused():
    with raises(ConfigError, "no_value_head", key="objective"):
        make_policy()(pack_trees(some_trees(1)), frozenset({"values"}))


def rollouts() -> list[Example]:
    """Two samples of each prompt, whose reward depends on the prompt alone."""
    found = []
    for k, tree in enumerate(some_trees(6)):
        answers = tuple(replace(one, scored=None) for one in tree.responses[:1])
        credits = tuple(Credit(float(k % 2), np.full(one.num_tokens, -3.0, np.float32)) for one in answers)
        zeros = tuple(np.zeros(one.num_tokens, np.float32) for one in answers)
        credits = tuple(replace(one, old_values=own) for one, own in zip(credits, zeros, strict=True))
        found.append(Example(f"row {k}", tree.prompt_ids, answers, credits=credits))
    return found


def test_it_learns_what_a_prompt_is_worth_at_its_own_learning_rate():
    """The policy hardly moves, and the values come near the rewards; trace 1, so returns are the rewards."""
    policy = with_head()
    objective = build("ppo", beta=0.0, trace=1.0, value_coef=1.0)
    optimizer = build_optimizer(policy, TrainingSettings(), 1e-6, value_learning_rate=3e-2)
    set_learning_rate(optimizer, 1e-6)
    assert sorted({group["lr"] for group in optimizer.param_groups}) == pytest.approx([1e-6, 3e-2])
    stepper = Stepper(policy, objective, None, max_tokens=64)
    errors = []
    for _ in range(60):
        optimizer.zero_grad()
        result = stepper.train(rollouts())
        optimizer.step()
        errors.append(result.metric_sums.means()["values/error"])
    assert errors[-1] < 0.1 * errors[0]


@pytest.mark.parametrize("max_tokens", [40, 4096])
def test_packs_change_no_gradient_of_head_or_policy(max_tokens):
    """Advantages are whitened over the step, so a step in several packs takes two passes."""
    gradients = []
    for budget in (max_tokens, 100_000):
        policy = with_head(shares_body=True).double()
        torch.nn.init.constant_(policy.value_head.linear.weight, 0.01)
        Stepper(policy, build("ppo", beta=0.0), None, max_tokens=budget).train(rollouts())
        gradients.append({name: p.grad for name, p in policy.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, found in gradients[0].items():
        torch.testing.assert_close(found, gradients[1][name], rtol=1e-7, atol=1e-10)
