"""Length bias against brute force over all cases, and the merging of blocks."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiltlm.data.stats.lengths import EXACT, LengthBias, rounded, summarise

PAIRS = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 60), st.sampled_from([1.0, 0.0, 0.5, 0.75, 0.2])), max_size=12
)


def measured(pairs):
    bias = LengthBias()
    for chosen, rejected, preference in pairs:
        bias.add(chosen, rejected, preference)
    return bias


def above(a, b):
    return 1.0 if a > b else 0.5 if a == b else 0.0


def auc_by_hand(pairs):
    """Average over two different pairs of P(a case of the first kind is above one of the second kind)."""
    values = []
    for i, (a, b, p) in enumerate(pairs):
        for j, (c, d, q) in enumerate(pairs):
            if i != j:
                cases = product(((a - b, p), (b - a, 1 - p)), ((d - c, q), (c - d, 1 - q)))
                values.append(sum(w * v * above(x, y) for (x, w), (y, v) in cases))
    return sum(values) / len(values)


@given(PAIRS)
def test_all_numbers_by_brute_force(pairs):
    bias = measured(pairs)
    decided = [(a, b, p) for a, b, p in pairs if p != 0.5]
    assert bias.num_pairs == len(decided)
    assert bias.num_ties == len(pairs) - len(decided)
    if not decided:
        assert bias.longer is None
        assert bias.mean_gap is None
        return
    longer = [p * above(a, b) + (1 - p) * above(b, a) for a, b, p in decided]
    gaps = [p * (a - b) + (1 - p) * (b - a) for a, b, p in decided]
    assert bias.longer.estimate == pytest.approx(np.mean(longer))
    assert bias.mean_gap.estimate == pytest.approx(np.mean(gaps))
    assert bias.num_equal == sum(a == b for a, b, _ in decided)
    if len(decided) > 1:
        assert bias.auc == pytest.approx(auc_by_hand(decided))
    else:
        assert math.isnan(bias.auc)


@given(PAIRS, st.integers(0, 12))
def test_blocks_merge_into_the_whole(pairs, cut):
    first, second = measured(pairs[:cut]), measured(pairs[cut:])
    first.merge(second)
    whole = measured(pairs)
    assert (first.chosen, first.rejected, first.num_pairs) == (whole.chosen, whole.rejected, whole.num_pairs)
    assert first.gaps == pytest.approx(whole.gaps)
    if whole.num_pairs > 1:
        assert first.auc == pytest.approx(whole.auc)


@given(PAIRS)
def test_a_mirrored_file_has_the_same_bias(pairs):
    mirrored = measured([(b, a, 1 - p) for a, b, p in pairs])
    bias = measured(pairs)
    assert mirrored.gaps == pytest.approx(bias.gaps)
    assert mirrored.chosen == bias.chosen


def test_the_longer_one_always_wins():
    bias = measured([(20 + i, 10, 1.0) for i in range(50)])
    assert bias.longer.estimate == 1
    assert bias.longer.low < 1
    assert bias.auc == 1
    assert bias.as_dict()["chosen"]["median"] == 44


def test_large_numbers_keep_three_digits_and_their_order():
    assert [rounded(n) for n in (999, 1000, 1004, 1005, 123456, -123456, 0)] == [
        *(999, 1000, 1000, 1010, 123000, -123000, 0)
    ]
    numbers = sorted({*range(900, 1200), *range(99_000, 101_000, 7)})
    held = [rounded(n) for n in numbers]
    assert held == sorted(held)
    assert all(abs(rounded(n) - n) <= 0.005 * n for n in numbers if n >= EXACT)


@given(st.integers(-(10**7), 10**7))
def test_rounding_is_symmetric(number):
    assert rounded(-number) == -rounded(number)


def test_a_summary_of_a_histogram():
    assert summarise({1: 1, 2: 1, 3: 1, 100: 1}) == {
        "mean": 26.5,
        "median": 2.0,
        "p95": 100.0,
        "p999": 100.0,
        "max": 100.0,
    }
    assert summarise({}) is None
