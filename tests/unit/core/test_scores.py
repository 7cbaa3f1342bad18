"""A reward model's scores stand where log-probabilities are read, and say that they are none."""

import pytest
import torch

from support.errors import raises
from tiltlm.core import ConfigError, ResponseLogps, ResponseScores, to_device


def made() -> ResponseScores:
    return ResponseScores.of(torch.tensor([0.5, -1.0], requires_grad=True), torch.tensor([1, 1]))


def test_scores_carry_gradient_and_are_float64_in_the_reward():
    from tiltlm.rewards import Learned

    responses = made()
    rewards = Learned()(responses)
    assert rewards.dtype == torch.float64
    assert rewards.tolist() == [0.5, -1.0]
    rewards.sum().backward()
    assert responses.scores.grad.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("seq_logps", "needs_policy"),
        ("mean_logps", "needs_policy"),
        ("log_ratios", "needs_policy"),
        ("token_log_ratios", "needs_reference_tokens"),
        ("ref_sums", "needs_reference"),
    ],
)
def test_there_are_no_log_probabilities(name, code):
    with raises(ConfigError, code):
        getattr(made(), name)


def test_a_policy_has_no_scores():
    from tiltlm.rewards import Learned

    logps = ResponseLogps(torch.tensor([-1.0]), torch.tensor([0]), torch.tensor([1]))
    with raises(ConfigError, "needs_reward_model", key="objective", mentions=["learned"]):
        Learned()(logps)


def test_they_move_between_devices_as_every_noun():
    assert to_device(made(), "meta").scores.device.type == "meta"
