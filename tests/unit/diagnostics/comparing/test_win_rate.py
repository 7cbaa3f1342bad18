"""Win rates, sign-flip p-values and Holm's adjustment."""

import itertools

import numpy as np
import pytest
from scipy import stats

from support.errors import raises
from tiltlm.core import ConfigError
from tiltlm.diagnostics.comparing.win_rate import mirror, sign_flip_p, win_rate


def soft(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).beta(2, 1.5, n)


def test_a_prompt_counts_once_however_many_judgements_it_has():
    found = win_rate([1, 1, 1, 1, 0, 0.5], ["a", "a", "a", "a", "b", "c"])
    assert found.rate.estimate == pytest.approx((1 + 0 + 0.5) / 3, abs=1e-11)
    assert found.num_prompts == 3
    assert found.wilson is None  # ½ is no plain win or loss


def test_plain_verdicts_also_have_wilsons_interval():
    found = win_rate([1] * 30 + [0] * 10)
    z = stats.norm.ppf(0.975)
    centre, half = (
        (0.75 + z**2 / 80) / (1 + z**2 / 40),
        z * np.sqrt(0.75 * 0.25 / 40 + z**2 / 6400) / (1 + z**2 / 40),
    )
    assert found.wilson is not None
    assert (found.wilson.low, found.wilson.high) == pytest.approx((centre - half, centre + half), abs=1e-11)
    assert found.p_value == pytest.approx(stats.binomtest(30, 40).pvalue)


@pytest.mark.parametrize("values", [soft(57), np.array([1.0] * 23 + [0.0] * 8), np.array([0.0, 0.3, 1.0, 0.5, 0.123])])
def test_exchanging_the_systems_mirrors_every_number_exactly(values):
    options = {"prompts": np.arange(len(values)) // 2, "resamples": 999}
    found, other = win_rate(values, **options), win_rate(1 - values, **options)
    exact = win_rate(values - 0.5 + 0.5, **options)  # 1 − x rounds; judgements are mirrored from the advantage
    assert other.rate == mirror(exact.rate) or other.rate.estimate == pytest.approx(1 - exact.rate.estimate, abs=1e-11)
    assert found.mirrored.mirrored == found
    assert other.p_value == found.p_value


def test_mirroring_is_exact_for_values_on_the_grid():
    values = np.round(soft(101) * 4096) / 4096
    assert win_rate(1 - values, resamples=500) == win_rate(values, resamples=500).mirrored
    plain = np.array([1.0] * 61 + [0.0] * 40)
    assert win_rate(1 - plain, resamples=500) == win_rate(plain, resamples=500).mirrored


def test_interval_covers_the_truth_as_often_as_it_says():
    """600 repeats of 120 prompts with three soft judgements each, which depend on one another within a prompt."""
    rng = np.random.default_rng(1)
    truth, prompts, hits = 0.6, np.repeat(np.arange(120), 3), 0
    for _ in range(600):
        of_prompt = np.repeat(rng.beta(1.2, 0.8, 120), 3)
        values = (rng.random(360) < of_prompt).astype(float)
        rate = win_rate(values, prompts, resamples=400).rate
        hits += rate.low <= truth <= rate.high
    assert 0.92 <= hits / 600 <= 0.98


def test_rows_as_units_would_be_too_narrow():
    values = np.repeat([1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0], 25)
    prompts = np.repeat(np.arange(8), 25)
    whole, rows = win_rate(values, prompts).rate, win_rate(values).rate
    assert whole.high - whole.low > 3 * (rows.high - rows.low)


def test_clusters_are_resampled_whole():
    values, prompts = np.repeat([1.0, 0.0] * 10, 10), np.arange(200)
    clusters = np.repeat(np.arange(20), 10)
    wide, narrow = win_rate(values, prompts, clusters=clusters).rate, win_rate(values, prompts).rate
    assert wide.high - wide.low > 2.5 * (narrow.high - narrow.low)
    assert wide.n == 20


def test_strata_keep_their_share():
    """If strata differ and are equal inside, nothing is left to vary."""
    values, strata = [1.0] * 30 + [0.0] * 30, ["easy"] * 30 + ["hard"] * 30
    rate = win_rate(values, strata=strata).rate
    assert (rate.low, rate.high) == (0.5, 0.5)


def test_a_prompt_in_two_strata_is_refused():
    with raises(ConfigError, code="conflict", key="strata"):
        win_rate([1, 0], ["p", "p"], strata=["a", "b"])


@pytest.mark.parametrize("value", [1.2, -0.1, float("nan")])
def test_values_that_are_no_probability_are_refused(value):
    with raises(ConfigError, code="out_of_range", key="values"):
        win_rate([0.5, value])


def test_sign_flip_is_exact_for_few_prompts():
    differences = np.array([0.3, -0.1, 0.25, 0.4, 0.05, 0.0])
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=6)
    ]
    assert sign_flip_p(differences) == pytest.approx(np.mean(np.array(sums) >= abs(differences.sum()) - 1e-12))


def test_sign_flip_of_many_prompts_agrees_with_the_normal_limit():
    differences = np.random.default_rng(3).normal(0.12, 1, 400)
    z = differences.sum() / np.sqrt((differences**2).sum())
    assert sign_flip_p(differences) == pytest.approx(2 * stats.norm.sf(abs(z)), abs=0.01)


def test_without_any_preference_the_p_value_is_1():
    assert sign_flip_p([0.0, 0.0]) == 1.0
    assert win_rate([0.5] * 20).p_value == 1.0


def test_p_values_are_uniform_under_no_difference():
    rng = np.random.default_rng(5)
    found = [sign_flip_p(rng.uniform(-0.5, 0.5, 12)) for _ in range(500)]
    assert 0.03 <= np.mean(np.array(found) <= 0.05) <= 0.07
