"""The minimum of the reward model's loss: Bradley–Terry's rewards, up to constants that comparisons do not fix."""

import pytest
import torch
from torch import Tensor, tensor

from tiltlm.core import Pairs, ResponseScores
from tiltlm.objectives import Objective, reduce_terms, reward_model

REWARD = tensor([0.0, 0.4, 1.0, -0.7, 2.0, -1.5]).double()
PROMPTS = [(0, 1, 2), (3, 4, 5)]
"""Responses 0–2 belong to one prompt, 3–5 to another; comparisons are within a prompt."""


def all_pairs(offset: float = 0.0) -> Pairs:
    """Every comparison within a prompt, once, with the label that Bradley–Terry gives it."""
    duels = [(a, b) for prompt in PROMPTS for i, a in enumerate(prompt) for b in prompt[i + 1 :]]
    chosen, rejected = tensor(duels).T
    return Pairs(
        chosen=chosen,
        rejected=rejected,
        example=torch.arange(len(duels)),
        weight=torch.ones(len(duels)).double(),
        preference=torch.sigmoid(REWARD[chosen] - REWARD[rejected]),
        offset=torch.full((len(duels),), offset).double(),
        num_examples=len(duels),
    )


def loss_of(objective: Objective, scores: Tensor, pairs: Pairs) -> Tensor:
    responses = ResponseScores(scores, torch.ones(len(scores), dtype=torch.long))
    return reduce_terms(objective(responses, pairs), pairs.counts())


def fitted(objective: Objective, pairs: Pairs, start: float = 3.0) -> Tensor:
    """The minimiser, from a start that is far off and different for each prompt."""
    scores = (REWARD * 0 + start * tensor([1, 1, 1, -1, -1, -1])).requires_grad_()
    optimiser = torch.optim.LBFGS([scores], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = loss_of(objective, scores, pairs)
        loss.backward()
        return loss

    optimiser.step(closure)
    return scores.detach()


def test_soft_labels_give_the_reward_up_to_a_constant_of_the_prompt():
    found = fitted(reward_model(), all_pairs())
    for prompt in map(list, PROMPTS):
        torch.testing.assert_close(
            found[prompt] - found[prompt].mean(), REWARD[prompt] - REWARD[prompt].mean(), atol=1e-4, rtol=0
        )
        assert found[prompt].mean().abs() > 1, "the constant stays where it started: comparisons do not see it"


def test_without_centering_a_constant_of_the_prompt_changes_nothing():
    scores, pairs = torch.randn(6, generator=torch.Generator().manual_seed(0)).double(), all_pairs()
    shifted = scores + tensor([5, 5, 5, -2, -2, -2])
    torch.testing.assert_close(loss_of(reward_model(), shifted, pairs), loss_of(reward_model(), scores, pairs))
    centred = reward_model(0.01)
    assert loss_of(centred, shifted, pairs) > loss_of(centred, scores, pairs) + 0.1


def test_centering_removes_the_constant():
    """A small weight hardly changes the differences and moves each prompt's rewards around 0."""
    found = fitted(reward_model(1e-3), all_pairs())
    for prompt in map(list, PROMPTS):
        torch.testing.assert_close(
            found[prompt] - found[prompt].mean(), REWARD[prompt] - REWARD[prompt].mean(), atol=0.05, rtol=0
        )
        assert found[prompt].mean().abs() < 0.05


def test_a_margin_inflates_the_reward():
    """On certain labels the gradient at a margin m is that at m − offset without an offset."""
    pairs, plain = all_pairs(offset=2.0), all_pairs()
    certain = [p.with_preference(torch.ones_like(p.preference)) for p in (pairs, plain)]
    one = tensor([1.0, 0.0, -1.0, 0.5, 2.5, -2.0]).double()

    def pull(scores: Tensor, view: Pairs) -> Tensor:
        scores = scores.clone().requires_grad_()
        return torch.autograd.grad(loss_of(reward_model(), scores, view), scores)[0]

    margin = one[pairs.chosen] - one[pairs.rejected]
    slope = torch.sigmoid(-(margin - 2.0)) / len(margin)
    expected = torch.zeros(6).double().index_add(0, pairs.chosen, -slope).index_add(0, pairs.rejected, slope)
    torch.testing.assert_close(pull(one, certain[0]), expected)
    assert (pull(one, certain[0]).abs().sum() > pull(one, certain[1]).abs().sum()).item()


@pytest.mark.parametrize("centering", [0.0, 0.02])
def test_at_a_tie_the_pull_is_dpos_at_beta_one(centering):
    """Both are Bradley–Terry: −½ on the chosen and ½ on the rejected response; centering at r = 0 has no slope."""
    scores = torch.zeros(6).double().requires_grad_()
    pair = Pairs(tensor([0]), tensor([1]), tensor([0]), *(tensor([x]).double() for x in (1.0, 1.0, 0.0)), 1)
    (pull,) = torch.autograd.grad(loss_of(reward_model(centering), scores, pair), scores)
    assert pull.tolist() == [-0.5, 0.5, 0, 0, 0, 0]
