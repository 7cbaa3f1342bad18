"""A reward model's scores stand where log-probabilities are read, and say that they are none."""

import pytest
import torch

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


@pytest.mark.parametrize("name", ["seq_logps", "mean_logps", "log_ratios", "token_log_ratios", "ref_sums"])
def test_there_are_no_log_probabilities(name):
    with pytest.raises(ConfigError):
        getattr(made(), name)


def test_a_policy_has_no_scores():
    from tiltlm.rewards import Learned

    logps = ResponseLogps(torch.tensor([-1.0]), torch.tensor([0]), torch.tensor([1]))
    with pytest.raises(ConfigError, match="this model is a policy"):
        Learned()(logps)


def test_they_move_between_devices_as_every_noun():
    assert to_device(made(), "meta").scores.device.type == "meta"
