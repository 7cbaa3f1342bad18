"""Sums by bucket: they merge, do not depend on order, and their intervals cover the truth where rows are dependent."""

import numpy as np
import pytest

from tiltlm.estimates.intervals import bootstrap_mean, wilson
from tiltlm.estimates.unit_sums import BUCKETS, UnitSums


def filled(rows, num_values=2):
    sums = UnitSums(num_values)
    for values, unit in rows:
        sums.add(values, unit)
    return sums


def made(rng, num_prompts, per_prompt):
    """Rows of prompts whose own share varies, so that rows of a prompt are dependent."""
    shares = rng.beta(1, 1, num_prompts)
    return [((float(rng.random() < s), 1.0), f"prompt {i}") for i, s in enumerate(shares) for _ in range(per_prompt)]


def test_the_order_of_rows_and_the_blocks_do_not_matter():
    rng = np.random.default_rng(0)
    rows = made(rng, 40, 3)
    whole = filled(rows)
    again = filled(rows[::-1])
    first, second = filled(rows[:50]), filled(rows[50:])
    first.merge(second)
    assert whole.ratio(0, 1) == again.ratio(0, 1) == first.ratio(0, 1)
    assert whole.num_rows == first.num_rows == 120


def test_the_estimate_is_the_plain_ratio():
    sums = filled([((1.0, 2.0), "a"), ((3.0, 2.0), "a"), ((0.0, 4.0), "b")])
    assert sums.ratio(0, 1).estimate == 4 / 8
    assert sums.ratio(0).estimate == 4 / 3
    assert sums.total(1) == 8


def test_a_prompt_is_resampled_as_a_whole():
    """A prompt with a hundred equal rows is one unit: as wide as one row a prompt, up to buckets that two share."""
    rng = np.random.default_rng(1)
    shares = (rng.random(200) < 0.5).astype(float)
    one = bootstrap_mean(shares)
    many = filled([((float(s),), f"p{i}") for i, s in enumerate(shares) for _ in range(100)], 1).ratio(0)
    assert many.estimate == pytest.approx(shares.mean())
    assert many.high - many.low == pytest.approx(one.high - one.low, rel=0.15)


def test_intervals_cover_the_truth_at_their_level():
    """Ten rows a prompt: an interval over rows would cover far less often."""
    rng = np.random.default_rng(2)
    repetitions, hits = 200, 0
    for _ in range(repetitions):
        found = filled(made(rng, 150, 10)).ratio(0, resamples=400)
        hits += found.low <= 0.5 <= found.high
    assert hits / repetitions > 0.90


def test_no_rows_and_no_weight_are_not_a_number():
    assert np.isnan(UnitSums(1).ratio(0).estimate)
    assert np.isnan(filled([((1.0, 0.0), "a")]).ratio(0, 1).estimate)


def test_a_share_of_0_or_1_has_a_width():
    found = filled([((1.0,), f"p{i}") for i in range(30)], 1).share(0)
    assert found == wilson(found.n, found.n)
    assert found.low < 1 == found.high


def test_rows_without_a_unit_are_independent():
    sums = filled([((float(i % 2),), None) for i in range(3 * BUCKETS)], 1)
    assert sums.ratio(0).n == BUCKETS
