"""What a loop takes from scores for length and end."""

import numpy as np
import pytest

from support.errors import raises
from tiltlm.core import ConfigError, Response, token_ids
from tiltlm.online.examples.shaping import ShapingSettings


def answers(*lengths: int, cut: tuple[int, ...] = ()) -> list[Response]:
    return [Response(token_ids([1] * n), ended=k not in cut) for k, n in enumerate(lengths)]


def test_nothing_is_taken_by_default():
    scores = np.array([0.1, np.nan, -3.0])
    np.testing.assert_array_equal(ShapingSettings().apply(scores, answers(1, 2, 3, cut=(0, 1)), 3), scores)


def test_the_soft_penalty_of_overlong_samples():
    """L = 100 and a cache of 20: 0 up to 80 tokens, −½ at 90, −1 at 100 and beyond."""
    found = ShapingSettings(overlong_tokens=20).apply(np.zeros(4), answers(80, 90, 100, 101), 100)
    assert found.tolist() == [0, -0.5, -1, -1]


def test_length_and_the_highest_score():
    found = ShapingSettings(length_penalty=0.1, highest=2.0).apply(np.array([1.0, 9.0]), answers(5, 10), 64)
    assert found == pytest.approx([0.5, 1.0])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({"cut_penalty": 0.5}, [1.0, 1.5]), ({"cut_reward": -1.0}, [1.0, -1.0]), ({"drop_cut": True}, [1.0, np.nan])],
)
def test_a_sample_without_an_end(settings, expected):
    found = ShapingSettings(**settings).apply(np.array([1.0, 2.0]), answers(3, 4, cut=(1,)), 4)
    np.testing.assert_array_equal(found, expected)


def test_a_sample_that_the_judge_failed_on_stays_without_a_score():
    found = ShapingSettings(cut_reward=-1.0).apply(np.array([np.nan]), answers(4, cut=(0,)), 4)
    assert np.isnan(found).all()


def test_only_one_rule_for_the_cut_and_no_negative_penalty():
    with raises(ConfigError, "conflict", key="shaping.drop_cut"):
        ShapingSettings(cut_penalty=1.0, drop_cut=True)
    with raises(ConfigError, "negative", key="shaping.length_penalty"):
        ShapingSettings(length_penalty=-0.1)
