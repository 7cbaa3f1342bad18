"""The rate of wrong labels: the interval covers the truth where the model of the labels holds."""

import numpy as np
import pytest

from support.errors import raises
from tiltlm.core import ConfigError
from tiltlm.diagnostics.label_noise import estimate_label_noise, flip_probabilities, outliers


def labelled_margins(rng, n, rate, slope=1.0, spread=4.0):
    """Draw margins of the labelled-better response: true labels by Bradley–Terry, then flips at random.

    Returns:
        The margins, and which labels were flipped.
    """
    m = spread * rng.standard_normal(n)
    prefers_first = rng.random(n) < 1 / (1 + np.exp(-slope * m))
    flipped = rng.random(n) < rate
    return np.where(prefers_first ^ flipped, m, -m), flipped


@pytest.mark.parametrize(("rate", "slope"), [(0.05, 1.0), (0.15, 0.7), (0.3, 2.0)])
def test_the_interval_covers_the_true_rate(rate, slope):
    """At level 95 %, 40 repetitions: fewer than 34 hits have probability 0.3 % if the level holds."""
    hits, estimates = 0, []
    for seed in range(40):
        margins, _ = labelled_margins(np.random.default_rng(seed), 1500, rate, slope)
        noise = estimate_label_noise(margins, seed=seed, draws=150)
        hits += noise.rate.low <= rate <= noise.rate.high
        estimates.append(noise.rate.estimate)
    assert hits >= 34
    assert np.mean(estimates) == pytest.approx(rate, abs=0.02)


def test_clean_labels_have_no_noise():
    margins, _ = labelled_margins(np.random.default_rng(1), 4000, 0.0)
    noise = estimate_label_noise(margins)
    assert noise.rate.low == 0
    assert noise.rate.high < 0.03
    assert noise.is_identified
    assert noise.slope == pytest.approx(1.0, rel=0.25)


def test_dependent_rows_make_the_interval_wider():
    """Each prompt ten times: the interval over prompts is that of a tenth of the rows."""
    margins, _ = labelled_margins(np.random.default_rng(2), 300, 0.2)
    repeated, units = np.repeat(margins, 10), np.repeat(np.arange(300), 10)
    by_prompt = estimate_label_noise(repeated, units).rate
    by_row = estimate_label_noise(repeated).rate
    assert by_prompt.n == 300
    assert by_prompt.high - by_prompt.low > 1.8 * (by_row.high - by_row.low)


def test_margins_without_information_are_called_so():
    rng = np.random.default_rng(3)
    noise = estimate_label_noise(np.where(rng.random(400) < 0.5, 1, -1) * rng.exponential(size=400))
    assert not noise.is_identified


def test_flipped_labels_are_found_by_bayes_rule():
    """At margin m, P(flipped) = ε(1 − σ)/(ε(1 − σ) + (1 − ε)σ): worked out by hand for σ = 1/4 and ε = 1/5."""
    margin = -np.log(3.0)
    assert flip_probabilities(np.array([margin, 0.0]), 0.2, 1.0) == pytest.approx([0.15 / 0.35, 0.2])
    margins, flipped = labelled_margins(np.random.default_rng(4), 5000, 0.1, slope=2.0)
    p = estimate_label_noise(margins).p_flipped
    for low, high in ((0.0, 0.2), (0.2, 0.8), (0.8, 1.0)):
        inside = (p >= low) & (p <= high)
        assert flipped[inside].mean() == pytest.approx(p[inside].mean(), abs=0.08)


def test_outliers_are_far_from_the_median():
    values = np.concatenate([np.linspace(-1, 1, 101), [40.0, -50.0]])
    assert outliers(values).tolist() == [101, 102]
    assert outliers(np.zeros(10)).tolist() == []


@pytest.mark.parametrize("margins", [np.ones(20), np.full(200, 1e-6), np.full(200, np.nan)])
def test_what_cannot_be_estimated_is_refused(margins):
    with raises(ConfigError, "out_of_range", key="margins"):
        estimate_label_noise(margins)
