"""The learning curve: the fit, the nesting, what a pilot can and cannot say, and that its intervals cover."""

import numpy as np
import pytest

from tiltlm.core.example import Comparison
from tiltlm.data.rows.records import Record
from tiltlm.data.stats import needed
from tiltlm.data.stats.needed import (
    FACTORS,
    Pilot,
    features_of,
    fit_power_law,
    fit_probe,
    held_out_hits,
    learning_curve,
)


def pilot_of(x, y, prompts):
    return Pilot([(f"{p:016d}".encode(), row, float(label)) for row, label, p in zip(x, y, prompts, strict=True)])


def made(rng, num_prompts, strength=1.0, features=12):
    """Pairs whose label follows a logistic model of their features."""
    x = rng.normal(size=(num_prompts, features))
    w = strength * np.ones(features) / np.sqrt(features)
    y = np.where(rng.random(num_prompts) < 1 / (1 + np.exp(-x @ w)), 1.0, -1.0)
    return x, y, w


def test_a_power_law_is_found_again():
    sizes = np.array([50.0, 100, 200, 400, 800])
    curve = 0.8 - 0.9 * sizes**-0.5
    found = fit_power_law(sizes, curve[None], [1600, 3200])
    np.testing.assert_allclose(found[0], 0.8 - 0.9 * np.array([1600.0, 3200]) ** -0.5, atol=2e-3)


def test_the_fit_falls_for_no_curve_and_never_above_1():
    sizes = np.array([50.0, 100, 200, 400])
    falling = fit_power_law(sizes, np.array([[0.7, 0.68, 0.66, 0.64]]), [800])
    assert falling[0, 0] == pytest.approx(0.67)
    steep = fit_power_law(sizes, np.array([[0.7, 0.8, 0.9, 1.0]]), [1e9])
    assert steep[0, 0] <= 1


def test_the_probe_is_ridge_regression():
    rng = np.random.default_rng(0)
    x, y, _ = made(rng, 60)
    w = fit_probe(x, y)
    scale = np.sqrt((x * x).mean(0)) + 1e-9
    z, v = x / scale, w * scale
    gradient = z.T @ (z @ v - y) + needed.RIDGE * np.sqrt(60) * v
    np.testing.assert_allclose(gradient, 0, atol=1e-8)


def test_a_prompt_is_never_in_training_and_test():
    """Labels that only the prompt decides cannot be predicted on other prompts."""
    rng = np.random.default_rng(1)
    prompts = np.repeat(np.arange(150), 4)
    sign = rng.choice([-1.0, 1.0], 150)[prompts]
    codes = rng.normal(size=(150, 40))[prompts]
    _, right = held_out_hits(codes * sign[:, None], sign, prompts, 0)
    leaked = held_out_hits(codes * sign[:, None], sign, np.arange(600), 0)[1]
    assert right[:, -1].mean() < 0.58 or leaked[:, -1].mean() > right[:, -1].mean() + 0.05


def test_subsets_are_nested_and_grow():
    rng = np.random.default_rng(2)
    x, y, _ = made(rng, 200)
    sizes, right = held_out_hits(x, y, np.arange(200), 0)
    assert np.all(np.diff(sizes) > 0)
    assert sizes[-1] == pytest.approx(160, abs=1)
    assert set(np.unique(right)) <= {0.0, 1.0}


def test_soft_labels_count_as_they_say():
    _, right = held_out_hits(np.ones((100, 1)), np.full(100, 0.5), np.arange(100), 0)
    assert np.allclose(right, 0.75)


def test_a_pilot_that_shows_no_rise_is_not_continued():
    rng = np.random.default_rng(3)
    x, _, _ = made(rng, 300)
    curve = learning_curve(pilot_of(x, rng.choice([-1.0, 1.0], 300), range(300)), resamples=100)
    assert curve.code == "no_rise"
    assert curve.projected == ()
    assert all(m.accuracy.low < 0.58 for m in curve.measured)


def test_few_prompts_and_no_labels():
    rng = np.random.default_rng(4)
    x, y, _ = made(rng, 200)
    assert learning_curve(pilot_of(x, y, np.arange(200) % 50)).code == "few_prompts"
    assert learning_curve(Pilot()).code == "no_labels"


def test_a_curve_is_continued_to_the_stated_factor_only():
    rng = np.random.default_rng(5)
    x, y, _ = made(rng, 800, strength=4.0, features=40)
    curve = learning_curve(pilot_of(x, y, range(800)), resamples=100)
    assert curve.reason == ""
    last = curve.measured[-1].labels
    labels = [m.labels for m in curve.projected]
    assert labels
    assert labels == [pytest.approx(factor * last, abs=4) for factor in FACTORS[: len(labels)]]
    assert all(g.estimate >= -0.02 for g in curve.gains)
    again = learning_curve(pilot_of(x, y, range(800)), resamples=100)
    assert curve == again


@pytest.mark.slow
def test_continued_accuracies_cover_what_more_labels_bring():
    """The truth: mean accuracy of probes that are trained on twice as many labels of the same world."""
    rng = np.random.default_rng(6)
    features, strength, num = 30, 3.0, 400
    twice = round(0.8 * num) * 2
    fresh = made(rng, 20_000, strength, features)
    reached = []
    for _ in range(40):
        x, y, _ = made(rng, twice, strength, features)
        reached.append(np.mean((fresh[0] @ fit_probe(x, y) > 0) == (fresh[1] > 0)))
    truth, hits, stated = np.mean(reached), 0, 0
    for seed in range(30):
        x, y, _ = made(rng, num, strength, features)
        curve = learning_curve(pilot_of(x, y, range(num)), seed=seed, resamples=100)
        if curve.projected:
            stated += 1
            hits += curve.projected[0].accuracy.low <= truth <= curve.projected[0].accuracy.high
    assert stated >= 20
    assert hits / stated >= 0.9


def test_features_see_words_and_style_and_ties_teach_nothing():
    assert not np.array_equal(features_of("one two"), features_of("one three"))
    plain, listed = features_of("a b"), features_of("- a\n- b?")
    assert np.all(listed[needed.WORDS :] >= plain[needed.WORDS :])
    pilot = Pilot()
    for p in (1.0, 0.5, 0.2):
        pilot.add(Record("f:1", "1", "p", ("yes", "no"), (Comparison(0, 1, preference=p),)))
    assert [y for _, _, y in pilot.rows] == [1.0, pytest.approx(-0.6)]


def test_a_large_pilot_is_thinned_by_prompt(monkeypatch):
    monkeypatch.setattr(needed, "MAX_PAIRS", 10)
    pilot = Pilot()
    for k in range(60):
        pilot.add(Record("f", "f", f"prompt {k}", ("yes", "no"), (Comparison(0, 1),)))
    x, y, prompts = pilot.arrays()
    assert (len(x), len(y), len(prompts)) == (10, 10, 10)
