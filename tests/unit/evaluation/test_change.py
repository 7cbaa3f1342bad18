"""Statistics by prompt against values worked out by hand or by brute force."""

import math

import numpy as np
import pytest

from tiltlm.evaluation.change import Change, area_by_prompt, mean_by_prompt, ratio_by_prompt

ALL = np.array([[0, 1, 2]])


def test_a_mean_gives_each_prompt_one_vote():
    statistic = mean_by_prompt([1.0, 0.0, 0.0, 1.0], np.array([0, 1, 1, 2]))
    assert statistic(ALL)[0] == pytest.approx((1 + 0 + 1) / 3)
    assert statistic(np.array([[1, 1, 2]]))[0] == pytest.approx(1 / 3)


def test_a_ratio_gives_each_denominator_its_weight():
    statistic = ratio_by_prompt([2.0, 3.0, 10.0], [1.0, 2.0, 4.0], np.array([0, 1, 2]))
    assert statistic(ALL)[0] == pytest.approx(15 / 7)
    assert statistic(np.array([[0, 0, 1]]))[0] == pytest.approx(7 / 4)


def test_a_ratio_of_nothing_is_not_a_number():
    statistic = ratio_by_prompt([1.0, 0.0], [1.0, 0.0], np.array([0, 1]))
    assert np.isnan(statistic(np.array([[1, 1]]))[0])


def test_two_prompts_draw_each_other_a_quarter_of_the_time():
    """Of values 0 and 1 a bootstrap mean is 0, ½, ½ or 1, so the 95 % interval is the whole range."""
    found = Change.of(
        mean_by_prompt([0.0, 0.0], np.array([0, 1])), mean_by_prompt([0.0, 1.0], np.array([0, 1])), 2, seed=0
    )
    assert (found.after.low, found.after.estimate, found.after.high) == (0.0, 0.5, 1.0)
    assert (found.before.low, found.before.high) == (0.0, 0.0)
    assert found.after.n == 2


def test_a_difference_is_paired():
    """A constant shift of very different prompts is known exactly, though neither mean is."""
    values = np.arange(20.0)
    prompt = np.arange(20)
    found = Change.of(mean_by_prompt(values, prompt), mean_by_prompt(values + 2, prompt), 20, seed=3)
    assert found.difference.low == pytest.approx(2) == found.difference.high
    assert found.after.high - found.after.low > 4


def test_one_prompt_has_no_interval():
    found = Change.of(mean_by_prompt([0.0], np.array([0])), mean_by_prompt([1.0], np.array([0])), 1, seed=0)
    assert found.difference.estimate == 1
    assert math.isnan(found.difference.low)
    assert math.isnan(found.difference.high)


def brute_area(values: np.ndarray, desirable: np.ndarray) -> float:
    wins = [np.heaviside(a - b, 0.5) for a in values[desirable] for b in values[~desirable]]
    return float(np.mean(wins))


def test_area_by_hand():
    """Desirable 3 and 1 against undesirable 1 and 0: wins 1, 1, ½, 1."""
    values, desirable = np.array([3.0, 1.0, 1.0, 0.0]), np.array([True, True, False, False])
    statistic = area_by_prompt(values, desirable, np.arange(4))
    assert statistic(np.arange(4)[None])[0] == pytest.approx(3.5 / 4)


def test_area_of_any_draw_is_that_of_its_rows():
    rng = np.random.default_rng(0)
    prompt = rng.integers(8, size=40)
    prompt[:8] = np.arange(8)
    values, desirable = rng.integers(5, size=40).astype(float), rng.random(40) < 0.4
    statistic = area_by_prompt(values, desirable, prompt)
    draws = rng.integers(8, size=(30, 8))
    for draw, found in zip(draws, statistic(draws), strict=True):
        rows = np.concatenate([np.flatnonzero(prompt == p) for p in draw])
        assert found == pytest.approx(brute_area(values[rows], desirable[rows]), nan_ok=True)


def test_area_without_one_side_is_not_a_number():
    statistic = area_by_prompt(np.array([1.0, 2.0]), np.array([True, False]), np.array([0, 1]))
    assert np.isnan(statistic(np.array([[0, 0]]))[0])
    assert statistic(np.array([[0, 1]]))[0] == 0
