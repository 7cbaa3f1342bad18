"""Credit rules: numbers worked out by hand, and what must not change them."""

import numpy as np
import pytest

from support.errors import raises
from support.online import group_of
from tiltlm.core import ConfigError
from tiltlm.online.examples.credit import CREDIT, batch_std, running_mean
from tiltlm.online.examples.rules import ExampleSettings, form_examples

BINARY = np.array([1.0, 0.0, 0.0, 1.0])
ONE_RIGHT = np.array([1.0, 0.0, 0.0, 0.0])
LENGTHS = np.array([1.0, 2.0, 3.0, 4.0])


def advantages(rule: str, rewards, lengths=LENGTHS):
    return CREDIT[rule].rule(np.asarray(rewards, dtype=np.float64), np.asarray(lengths, dtype=np.float64))


@pytest.mark.parametrize(
    ("rule", "rewards", "expected"),
    [
        ("group_std", BINARY, (1, -1, -1, 1)),
        ("group_std", ONE_RIGHT, (1.732051, -0.577350, -0.577350, -0.577350)),
        ("loo", BINARY, (2 / 3, -2 / 3, -2 / 3, 2 / 3)),
        ("loo", ONE_RIGHT, (1, -1 / 3, -1 / 3, -1 / 3)),
        ("mean", BINARY, (0.5, -0.5, -0.5, 0.5)),
        ("max_rl", BINARY, (1, -1, -1, 1)),
        ("max_rl", ONE_RIGHT, (3, -1, -1, -1)),
        ("max_rl", np.zeros(4), (0, 0, 0, 0)),
        ("opo", BINARY, (0.5, -0.5, -0.5, 0.5)),  # (1·1 + 4·1) / 10
        ("opo", ONE_RIGHT, (0.9, -0.1, -0.1, -0.1)),
        ("score", BINARY, BINARY),
    ],
)
def test_golden_numbers(rule, rewards, expected):
    """To six digits; group_std has 1e-4 beside the deviation, which is taken out here."""
    found = advantages(rule, rewards)
    scale = (np.std(rewards) + 1e-4) / np.std(rewards) if rule == "group_std" else 1.0
    assert found * scale == pytest.approx(np.array(expected), abs=1e-6)


def test_loo_is_the_mean_rule_times_k_over_k_minus_one():
    rewards = np.array([0.3, -2.0, 5.5])
    assert advantages("loo", rewards, LENGTHS[:3]) == pytest.approx(advantages("mean", rewards, LENGTHS[:3]) * 3 / 2)


def test_the_deviation_of_the_round_is_the_same_for_every_prompt():
    """Rewards 0, 2, 4, 8: mean 3.5 and population deviation √8.75; each prompt keeps its own mean."""
    groups = [(np.array([0.0, 2.0]), LENGTHS[:2]), (np.array([4.0, 8.0]), LENGTHS[:2])]
    first, second = batch_std(groups)
    assert first == pytest.approx(np.array([-1, 1]) / (np.sqrt(8.75) + 1e-4))
    assert second == pytest.approx(np.array([-2, 2]) / (np.sqrt(8.75) + 1e-4))


def test_the_running_mean_holds_no_sample_of_its_own_round():
    groups = [(np.array([1.0]), LENGTHS[:1]), (np.array([3.0]), LENGTHS[:1]), (np.array([5.0]), LENGTHS[:1])]
    assert [float(a[0]) for a in running_mean(groups, (), 0.1)] == [1 - 4, 3 - 3, 5 - 2]
    baseline = 2.0 + 0.1 * (4.0 - 2.0)
    assert [float(a[0]) for a in running_mean(groups, (2.0, 4.0), 0.1)] == pytest.approx(
        [r - baseline for r in (1, 3, 5)]
    )
    assert float(running_mean(groups[:1], (), 0.1)[0][0]) == 1.0  # nothing else is known


def test_a_sample_without_a_score_leaves_the_group():
    """Its place in mean and deviation goes too; it is not a punishment with 0."""
    group = group_of([1.0, np.nan, 3.0])
    (example,) = form_examples([group], ExampleSettings("loo")).examples
    assert [credit.advantage for credit in example.credits] == [-2.0, 2.0]
    assert len(example.responses) == 2


def test_a_single_judged_sample_gives_no_credit():
    formed = form_examples([group_of([1.0, np.nan]), group_of([1.0, 2.0])], ExampleSettings("group_std"))
    assert len(formed.examples) == 1
    assert formed.dropped == {"not_judged": 1}


def test_win_rates_as_rewards():
    """P of scores (0, 1, 2), itself included: .296048, .5, .703952."""
    group = group_of([0.0, 1.0, 2.0])
    (example,) = form_examples([group], ExampleSettings("mean", win_rates=True)).examples
    assert [c.advantage for c in example.credits] == pytest.approx([0.296048 - 0.5, 0.0, 0.703952 - 0.5], abs=1e-6)


def test_max_rl_refuses_rewards_below_zero():
    with raises(ConfigError, "out_of_range", key="examples.rule"):
        advantages("max_rl", [1.0, -0.5], LENGTHS[:2])


def test_pooled_rules_leave_out_prompts_without_a_score():
    for rule in ("batch_std", "running_mean"):
        formed = form_examples([group_of([np.nan, np.nan]), group_of([1.0, 2.0])], ExampleSettings(rule))
        assert (len(formed.examples), formed.dropped) == (1, {"not_judged": 1})
        assert form_examples([group_of([np.nan])], ExampleSettings(rule)).examples == []
