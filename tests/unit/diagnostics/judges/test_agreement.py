"""Agreement by hand, in its limits, and with intervals that hold the truth as often as they say."""

import numpy as np
import pytest

from support.errors import raises
from tiltlm.core import ConfigError
from tiltlm.diagnostics.judges import auc, decision, kappa, rate

REPEATS = 600


def test_kappa_by_hand():
    judged = [1.0] * 8 + [0.0] * 2
    assert kappa(judged, np.ones(10)).estimate == pytest.approx((0.8 - 0.5) / 0.5, abs=1e-12)
    judged = [1.0] * 5 + [0.0] * 2 + [0.5] * 3
    labels = [1.0] * 6 + [0.0] + [0.5] * 3
    chance = 0.7 * 0.7 / 2 + 0.3 * 0.3
    assert kappa(judged, labels).estimate == pytest.approx((0.9 - chance) / (1 - chance), abs=1e-12)


def test_kappa_in_its_limits():
    labels = np.array([1.0, 0.0, 1.0, 0.5])
    assert kappa(labels, labels).estimate == 1.0
    assert kappa([1.0, 0.0] * 10, np.ones(20)).estimate == 0.0
    assert np.isnan(kappa([0.5] * 4, [0.5] * 4).estimate)


def test_nothing_depends_on_which_one_is_called_a():
    rng = np.random.default_rng(0)
    p, labels = rng.random(50), rng.integers(2, size=50).astype(float)
    flips = rng.integers(2, size=50).astype(bool)
    other, mirrored = np.where(flips, 1 - p, p), np.where(flips, 1 - labels, labels)
    for first, second in ((kappa(p, labels), kappa(other, mirrored)), (auc(p, labels), auc(other, mirrored))):
        assert [first.estimate, first.low, first.high] == pytest.approx([second.estimate, second.low, second.high])


def test_auc_by_hand():
    """Cases that people prefer: .9, .6, .4; the others: .1, .4, .6. Pairs of different rows only."""
    above = [0.9 > 0.4, 0.9 > 0.6, 0.6 > 0.1, 0.5, 0.4 > 0.1, 0.5]
    assert auc([0.9, 0.6, 0.4], [1, 1, 1]).estimate == pytest.approx(sum(above) / 6, abs=1e-12)
    assert auc([0.9, 0.4, 0.4], [1, 0, 1]).estimate == auc([0.9, 0.6, 0.4], [1, 1, 1]).estimate
    assert auc([0.9, 0.6, 0.4, 0.2], [1, 1, 1, 0.5]).estimate == auc([0.9, 0.6, 0.4], [1, 1, 1]).estimate
    assert auc(np.full(5, 0.5), np.ones(5)).estimate == 0.5
    with raises(ConfigError, "too_few"):
        auc([0.5, 0.6], [1.0, 0.5])


def test_rates_without_spread_have_wilsons_interval():
    assert rate([]) is None
    none = rate(np.zeros(20))
    assert (none.estimate, none.low) == (0.0, pytest.approx(0.0, abs=1e-12))
    assert 0.1 < none.high < 0.2
    assert rate([1.0, 0.0]).estimate == 0.5


def test_a_unit_counts_once_in_a_rate_and_as_a_whole_in_kappa():
    assert rate([1.0, 1.0, 0.0], ["p", "p", "q"]).estimate == 0.5
    repeated = kappa(np.repeat([1.0, 0.0, 1.0, 1.0], 25), np.ones(100), np.repeat(range(4), 25))
    assert repeated.n == 4
    assert repeated.high - repeated.low > 0.9


def coverage(interval, truth):
    found = [interval(seed) for seed in range(REPEATS)]
    return np.mean([one.low <= truth <= one.high for one in found])


@pytest.mark.slow
def test_intervals_of_kappa_cover():
    """Three decisions with known shares: κ of the population is worked out from them."""
    rng = np.random.default_rng(1)
    share_right, share_tie = 0.7, 0.1
    truth = (share_right - 0.45) / 0.55

    def one(seed):
        judged = rng.choice([1.0, 0.5, 0.0], size=200, p=[share_right, share_tie, 0.2])
        return kappa(judged, np.ones(200), seed=seed, resamples=500)

    assert 0.92 <= coverage(one, truth) <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("num_prompts", [200, 50])
def test_intervals_of_auc_cover(num_prompts):
    """p = Φ-like logits N(μ, 1): P(x + x' > 0) for two of them is Φ(2μ/√2).

    With 50 prompts, half of the variance is shared by the four pairs of a prompt.
    """
    from scipy.stats import norm

    rng = np.random.default_rng(2)
    truth = norm.cdf(0.5 * np.sqrt(2))
    prompts = np.repeat(np.arange(num_prompts), 200 // num_prompts)

    def one(seed):
        of_prompt, of_pair = (rng.normal(0, np.sqrt(0.5), n) for n in (num_prompts, 200))
        logits = 0.5 + of_prompt[prompts] + of_pair
        return auc(1 / (1 + np.exp(-logits)), np.ones(200), prompts, seed=seed, resamples=300)

    assert 0.92 <= coverage(one, truth) <= 0.98


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_intervals_of_rates_cover(share):
    rng = np.random.default_rng(3)
    found = lambda seed: rate((rng.random(200) < share).astype(float), seed=seed, resamples=500)  # noqa: E731
    assert 0.92 <= coverage(found, share) <= 0.98


def test_decisions():
    assert decision([0.4999, 0.5, 0.5001]).tolist() == [0.0, 0.5, 1.0]
