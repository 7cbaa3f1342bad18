"""Sample sizes: a table worked out before, and the chance of a finding in a simulation."""

import numpy as np
import pytest
from scipy import stats

from support.errors import raises
from tiltlm.core import ConfigError
from tiltlm.diagnostics.comparing.planning import Plan, half_width, prompts_needed, prompts_needed_for_difference


@pytest.mark.parametrize(
    ("n", "plain", "with_ties"),
    [(100, 9.8, 8.8), (200, 6.9, 6.2), (400, 4.9, 4.4), (805, 3.5, 3.1), (2000, 2.2, 2.0), (5000, 1.4, 1.2)],
)
def test_half_widths(n, plain, with_ties):
    assert round(100 * half_width(n), 1) == plain
    assert round(100 * half_width(n, ties=0.2), 1) == with_ties


@pytest.mark.parametrize(
    ("rate", "n"), [(0.52, 4904), (0.53, 2178), (0.55, 783), (0.575, 347), (0.60, 194), (0.70, 47)]
)
def test_prompts_for_a_power_of_80_per_cent(rate, n):
    assert prompts_needed(rate - 0.5) == n


@pytest.mark.parametrize(("detect", "n"), [(0.05, 1055), (0.10, 264)])
def test_prompts_for_a_difference_of_two_systems(detect, n):
    assert prompts_needed_for_difference(detect, rate=0.4) == n


def test_the_difference_is_found_as_often_as_planned():
    n = prompts_needed(0.06, ties=0.1)
    draws = np.random.default_rng(0).multinomial(n, [0.51, 0.1, 0.39], size=4000)
    mean = (draws[:, 0] + draws[:, 1] / 2) / n
    z = (mean - 0.5) / np.sqrt((0.25 - 0.025) / n)
    assert np.mean(np.abs(z) > stats.norm.ppf(0.975)) == pytest.approx(0.8, abs=0.02)


def test_calls_and_cost_of_a_plan():
    plan = Plan(0.05, 0.0, 0.8, num_systems=3, samples_per_prompt=2, price=0.001)
    assert plan.num_prompts == 783
    assert plan.num_calls == 783 * 3 * 2 * 2
    assert plan.cost == pytest.approx(9.396)
    assert Plan(0.05, 0.0, 0.8, 2, 1, None).cost is None


def test_what_is_impossible_is_refused():
    for options in ({"detect": 0.6}, {"detect": 0.0}, {"detect": 0.1, "power": 1.0}, {"detect": 0.4, "ties": 0.5}):
        with raises(ConfigError, code="out_of_range"):
            prompts_needed(**options)
    with raises(ConfigError, code="not_positive"):
        half_width(0)
    with raises(ConfigError, code="out_of_range", key="correlation"):
        prompts_needed_for_difference(0.1, correlation=1.0)
