"""Sequence KL from samples, against sums over every response of a small world."""

import numpy as np
import pytest

from support.errors import raises
from tiltlm.core.errors import ConfigError
from tiltlm.diagnostics import sequence_kl

POLICY = np.array([0.6, 0.3, 0.1])
REFERENCE = np.array([0.2, 0.3, 0.5])
EXACT = float(POLICY @ np.log(POLICY / REFERENCE))


def every_response_in_proportion():
    """Ten samples in which each response has exactly its own share: sample means are exact expectations."""
    return np.repeat(np.arange(3), [6, 3, 1])


def test_both_estimators_have_the_divergence_as_their_mean():
    y = every_response_in_proportion()
    prompts = np.zeros(10, dtype=int)
    result = sequence_kl(np.log(POLICY)[y], np.log(REFERENCE)[y], prompts, temperature=1, ended=np.ones(10))
    assert result.k1.estimate == pytest.approx(EXACT)
    # E k3 = KL + E[π0/π] − 1, and E[π0/π] = 1 where the policy reaches all of the reference.
    assert result.k3.estimate == pytest.approx(EXACT)


def test_prompts_are_the_units():
    y = np.tile(every_response_in_proportion(), 4)
    prompts = np.repeat(["d", "c", "b", "a"], 10)
    result = sequence_kl(np.log(POLICY)[y], np.log(REFERENCE)[y], prompts, temperature=1, ended=np.ones(40))
    assert result.k1.n == 4
    assert (result.k1.low, result.k1.high) == pytest.approx((EXACT, EXACT))


def test_one_sample_may_have_a_negative_k1_but_no_negative_k3():
    single = sequence_kl(np.log(POLICY)[[2]], np.log(REFERENCE)[[2]], [0], temperature=1.0, ended=[True])
    assert single.k1.estimate < 0 < single.k3.estimate


@pytest.mark.slow
def test_intervals_hold_the_truth():
    """Nominal 95 % intervals hold the divergence in 92 to 98 % of 500 repeats of 60 prompts with two samples each."""
    rng = np.random.default_rng(0)
    inside = np.zeros(2)
    prompts, ended = np.repeat(np.arange(60), 2), np.ones(120)
    for seed in range(500):
        y = rng.choice(3, size=120, p=POLICY)
        found = sequence_kl(np.log(POLICY)[y], np.log(REFERENCE)[y], prompts, temperature=1, ended=ended, seed=seed)
        inside += [found.k1.low <= EXACT <= found.k1.high, found.k3.low <= EXACT <= found.k3.high]
    assert np.all((inside >= 0.92 * 500) & (inside <= 0.98 * 500)), inside / 500


def test_equal_policies_have_no_divergence():
    logps = np.array([-3.0, -700.0])
    result = sequence_kl(logps, logps, [0, 1], temperature=1.0, ended=[True, True])
    assert (result.k1.estimate, result.k3.estimate, result.k3.high) == (0.0, 0.0, 0.0)


def test_other_temperatures_are_refused():
    with raises(ConfigError, "wrong_temperature", key="temperature", mentions=["0.7"]):
        sequence_kl([-1.0], [-1.0], [0], temperature=0.7, ended=[True])


def test_cut_samples_are_refused_or_counted():
    arguments = ([-1.0, -2.0], [-1.5, -2.5], [0, 1])
    with raises(ConfigError, "cut_samples", key="allow_cut", mentions=["1 of 2"]):
        sequence_kl(*arguments, temperature=1.0, ended=[True, False])
    result = sequence_kl(*arguments, temperature=1.0, ended=[True, False], allow_cut=True)
    assert result.cut_share == 0.5
    assert result.k1.estimate == pytest.approx(0.5)


def test_ragged_input_is_refused():
    with raises(ConfigError, "unequal_lengths", key="ended"):
        sequence_kl([-1.0, -2.0], [-1.0, -2.0], [0, 0], temperature=1.0, ended=[True])
