"""Bradley–Terry: exact where it can be worked out, covering where not, and refused where undefined."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from support.errors import raises
from tiltlm.core import ConfigError
from tiltlm.diagnostics.comparing.strength import RIDGE, bradley_terry

PAIRS = ((0, 1), (0, 2), (1, 2))


def table(n: int, theta: np.ndarray, rng: np.random.Generator, slope: float = 0.0) -> dict[str, np.ndarray]:
    """Draw one verdict for every pair of three systems at each of n prompts."""
    first, second = (np.tile([p[k] for p in PAIRS], n) for k in (0, 1))
    gaps = rng.normal(0, 100, len(first))
    chance = expit(theta[first] - theta[second] + slope * np.tanh(gaps / 100))
    values = (rng.random(len(first)) < chance).astype(float)
    return {"first": first, "second": second, "values": values, "prompts": np.repeat(np.arange(n), 3), "gaps": gaps}


def fit(rows: dict[str, np.ndarray], names=("a", "b", "c"), **options):
    rows = {key: value for key, value in rows.items() if key != "gaps" or options.pop("with_length", False)}
    return bradley_terry(names, **rows, **options)


def test_two_systems_are_the_log_odds_of_the_win_rate():
    found = bradley_terry(
        ("a", "b"), [0] * 1000, [1] * 1000, [1] * 700 + [0] * 250 + [0.5] * 50, range(1000), resamples=20
    )
    a, b = (s.estimate for s in found.strengths)
    assert a - b == pytest.approx(np.log(0.725 / 0.275), abs=1e-3)
    assert a == -b


def test_it_is_the_minimum_that_scipy_finds():
    rows = table(80, np.array([0.6, 0.0, -0.4]), np.random.default_rng(0))

    def loss(theta):
        eta = theta[rows["first"]] - theta[rows["second"]]
        return np.sum(np.logaddexp(0, eta) - rows["values"] * eta) + RIDGE / 2 * np.sum(theta**2)

    best = minimize(loss, np.zeros(3), method="BFGS", options={"gtol": 1e-9}).x
    found = [s.estimate for s in fit(rows, resamples=20).strengths]
    assert found == pytest.approx(list(best - best.mean()), abs=1e-6)


def test_order_of_systems_and_sides_change_nothing():
    rows = table(50, np.array([0.6, 0.0, -0.4]), np.random.default_rng(1))
    swapped = {**rows, "first": rows["second"], "second": rows["first"], "values": 1 - rows["values"]}
    assert fit(rows, resamples=50) == fit(swapped, resamples=50)


def test_an_anchor_is_at_zero():
    rows = table(50, np.array([0.6, 0.0, -0.4]), np.random.default_rng(1))
    free, anchored = fit(rows, resamples=50), fit(rows, resamples=50, anchor="b")
    assert anchored.strengths[1].estimate == anchored.strengths[1].low == anchored.strengths[1].high == 0
    gap = free.strengths[0].estimate - free.strengths[1].estimate
    assert anchored.strengths[0].estimate == pytest.approx(gap, abs=1e-9)
    with raises(ConfigError, code="unknown_name", key="anchor"):
        fit(rows, anchor="z")


@pytest.mark.slow
def test_interval_covers_the_truth_as_often_as_it_says():
    rng, theta, hits = np.random.default_rng(2), np.array([0.7, 0.1, -0.8]), 0
    for _ in range(500):
        found = fit(table(120, theta, rng), resamples=200).strengths
        hits += sum(s.low <= t <= s.high for s, t in zip(found, theta, strict=True))
    assert 0.92 <= hits / 1500 <= 0.98


def test_length_is_separated_from_strength():
    rows = table(3000, np.array([0.5, 0.0, -0.5]), np.random.default_rng(3), slope=1.0)
    found = fit(rows, with_length=True, resamples=100)
    assert found.length_coefficient is not None
    assert found.length_coefficient.low < 1.0 < found.length_coefficient.high
    assert found.strengths[0].low < 0.5 < found.strengths[0].high


def test_ranks_say_what_cannot_be_told_apart():
    rows = table(400, np.array([1.0, 0.0, 0.0]), np.random.default_rng(4))
    found = fit(rows, resamples=300)
    assert found.ranks[0] == (1, 1)
    assert found.ranks[1] == found.ranks[2] == (2, 3)


def test_a_system_that_wins_everything_has_no_limit():
    found = bradley_terry(("a", "b", "c"), [0, 0, 1, 1], [1, 2, 2, 2], [1, 1, 1, 0], [0, 0, 0, 1], resamples=20)
    assert found.without_limit == ("a",)
    assert np.isfinite(found.strengths[0].high)
    assert fit(table(60, np.zeros(3), np.random.default_rng(5)), resamples=20).without_limit == ()


def test_systems_that_nothing_connects_are_refused():
    with raises(ConfigError, code="not_connected", key="systems"):
        bradley_terry(("a", "b", "c", "d"), [0, 2], [1, 3], [1, 0], [0, 0])
    with raises(ConfigError, code="empty"):
        bradley_terry(("a", "b"), [], [], [], [])
