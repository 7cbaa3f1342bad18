"""Scores of a reward model, and the error of reading log-probabilities from them."""

import pickle

import pytest
import torch

from support.errors import raises
from tiltlm.core import ConfigError, ResponseLogps, ResponseScores, detached, to_device


def made() -> ResponseScores:
    return ResponseScores(torch.tensor([0.5, -1.0], requires_grad=True), torch.tensor([1, 1]))


def test_scores_carry_gradient_and_are_float64_in_the_reward():
    from tiltlm.rewards import Learned

    responses = made()
    rewards = Learned()(responses)
    assert rewards.dtype == torch.float64
    assert rewards.tolist() == [0.5, -1.0]
    rewards.sum().backward()
    assert responses.scores.grad.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    "name",
    [
        "token_logps",
        "seq_logps",
        "mean_logps",
        "log_ratios",
        "token_log_ratios",
        "ref_sums",
        "ref_token_logps",
        "extra",
    ],
)
def test_there_are_no_log_probabilities(name):
    assert not isinstance(made(), ResponseLogps)
    with raises(ConfigError, "needs_policy", key="objective", mentions=[name]):
        getattr(made(), name)


def test_an_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_number"):
        _ = made().no_such_number


def test_a_pickled_copy_is_equal():
    assert pickle.loads(pickle.dumps(detached(made()))).scores.tolist() == [0.5, -1.0]


def test_a_policy_has_no_scores():
    from tiltlm.rewards import Learned

    logps = ResponseLogps(torch.tensor([-1.0]), torch.tensor([0]), torch.tensor([1]))
    with raises(ConfigError, "needs_reward_model", key="objective", mentions=["learned"]):
        Learned()(logps)


def test_they_move_between_devices():
    assert to_device(made(), "meta").scores.device.type == "meta"
