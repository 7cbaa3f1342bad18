"""Loops on the plane: means over seeds by hand, and where a judge was over-optimised."""

import pytest
from scipy import stats

from tiltlm.diagnostics import Interval
from tiltlm.evaluation.answers.loop_curve import LoopCurve, RoundPoint, join_seeds


def point(number, kl, reward, width=0.1):
    near, high = (Interval(value, value - width, value + width, 0.95, 8) for value in (kl, reward))
    return RoundPoint(number, near, high, 7.0, 0.0, 100 * number, 10 * number)


def curve(name, rewards, knobs=None, score="reward"):
    points = tuple(point(k, 0.1 * k * k, reward) for k, reward in enumerate(rewards))
    return LoopCurve(name, knobs or {}, score, points)


def test_repetitions_are_means_with_students_interval():
    (found,) = join_seeds([curve("dpo-0", [1, 2, 5]), curve("dpo-1", [2, 4])])
    assert (found.name, found.num_seeds, len(found.points)) == ("dpo", 2, 2)
    last = found.points[1]
    half = stats.t.ppf(0.975, 1) * 1.0  # values 2 and 4: standard deviation √2, divided by √2
    assert (last.reward.estimate, last.reward.high) == pytest.approx((3, 3 + half))
    assert (last.kl.estimate, last.kl.low, last.sampled_tokens, last.judgements) == (0.1, 0.1, 100, 10)


def test_other_settings_or_another_judge_are_another_curve():
    curves = [curve("a", [1], {"n": 2}), curve("b", [1], {"n": 4}), curve("c", [1], {"n": 2}, score="held_out")]
    assert [one.name for one in join_seeds(curves)] == ["a", "b", "c"]


@pytest.mark.parametrize(("rewards", "fallen"), [([1, 3, 2], True), ([1, 3, 2.85], False), ([1, 2, 3], False)])
def test_a_reward_has_fallen_where_intervals_do_not_meet(rewards, fallen):
    found = curve("a", rewards)
    assert found.has_fallen is fallen
    assert found.best.reward.estimate == 3
