"""Agreement against published tables, against sums written out, and against what is known of simulated annotators."""

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.voting import simulated, symmetric
from tiltlm.data.labels import as_votes, measure_agreement
from tiltlm.data.labels.agreement import alpha_facts, alpha_of, cohen, krippendorff
from tiltlm.data.labels.votes import Repeat

_ = None
FOUR_OBSERVERS = [  # Krippendorff 2011, example C: four observers, twelve units, five values
    [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
    [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
]
THREE_CODERS = [  # the example of the encyclopaedias: three coders, fifteen units, four values
    [_, _, _, _, _, 3, 4, 1, 2, 1, 1, 3, 3, _, 3],
    [1, _, 2, 1, 3, 3, 4, 3, _, _, _, _, _, _, _],
    [_, _, 2, 1, 3, 4, 4, _, 2, 1, 1, 3, 3, _, 4],
]


def counts_of(rows, values):
    units = list(zip(*rows, strict=True))
    return np.array([[unit.count(value) for value in values] for unit in units], dtype=float)


def alpha_by_pairs(units):
    """1 − D_o/D_e over all pairs of values, as the definition has it, in exact numbers."""
    units = [[v for v in unit if v is not None] for unit in units]
    units = [unit for unit in units if len(unit) > 1]
    every = [v for unit in units for v in unit]
    n = len(every)
    if n == 0:
        return None
    observed = sum(Fraction(2 * sum(a != b for a, b in combinations(unit, 2)), len(unit) - 1) for unit in units) / n
    expected = Fraction(2 * sum(a != b for a, b in combinations(every, 2)), n * (n - 1))
    return None if expected == 0 else 1 - observed / expected


@pytest.mark.parametrize(
    ("rows", "published"), [(FOUR_OBSERVERS, 0.743), (THREE_CODERS, 0.691)], ids=["Krippendorff", "three coders"]
)
def test_published_values_of_alpha(rows, published):
    values = sorted({v for row in rows for v in row if v is not None})
    found = krippendorff(counts_of(rows, values), resamples=50)
    assert round(found.estimate, 3) == published
    assert found.estimate == pytest.approx(float(alpha_by_pairs(zip(*rows, strict=True))))


@given(st.lists(st.lists(st.sampled_from(["a", "b", "tie", None]), min_size=3, max_size=3), min_size=1, max_size=8))
def test_alpha_is_its_definition(units):
    counts = np.array([[unit.count(value) for value in ("a", "b", "tie")] for unit in units], dtype=float)
    expected = alpha_by_pairs(units)
    found = alpha_of(alpha_facts(counts).sum(0))
    if expected is None:
        assert np.isnan(found)
        assert krippendorff(counts) is None
    else:
        assert found == pytest.approx(float(expected))


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=12))
def test_kappa_is_its_definition(pairs):
    n = len(pairs)
    first, second = zip(*pairs, strict=True)
    agree = Fraction(sum(a == b for a, b in pairs), n)
    chance = sum(Fraction(first.count(k) * second.count(k), n * n) for k in range(3))
    found = cohen(np.array(first), np.array(second), resamples=10)
    if chance == 1:
        assert found is None
    else:
        assert found.estimate == pytest.approx(float((agree - chance) / (1 - chance)))


def test_against_libraries():
    """The same numbers as two libraries that others use."""
    krippendorff_library = pytest.importorskip("krippendorff")
    inter_rater = pytest.importorskip("statsmodels.stats.inter_rater")
    rng = np.random.default_rng(0)
    for _ in range(5):
        table = rng.integers(0, 3, (40, 4)).astype(float)
        table[rng.random(table.shape) < 0.3] = np.nan
        counts = np.stack([(table == k).sum(1) for k in range(3)], 1).astype(float)
        expected = krippendorff_library.alpha(reliability_data=table.T, level_of_measurement="nominal")
        assert alpha_of(alpha_facts(counts).sum(0)) == pytest.approx(expected, abs=1e-12)
        both = rng.integers(0, 3, (50, 2))
        square = np.zeros((3, 3))
        np.add.at(square, (both[:, 0], both[:, 1]), 1)
        expected = inter_rater.cohens_kappa(square, return_results=False)
        assert cohen(both[:, 0], both[:, 1], resamples=10).estimate == pytest.approx(expected, abs=1e-12)


def voted(*rows):
    return as_votes([(f"item {i}", who, choice) for i, who, choice in rows])


def test_unanimous_votes_have_no_alpha():
    found = measure_agreement(voted(*((i, who, "a") for i in range(20) for who in ("ann", "bob", "cy"))))
    assert found.alpha is None
    assert {note.code for note in found.notes} >= {"alpha_unanimous"}
    assert found.raw.estimate == 1
    assert found.raw.low < 1


def test_single_votes_are_no_agreement():
    rows = [(i, "ann", "a") for i in range(50)] + [(50, "ann", "a"), (50, "bob", "b")]
    found = measure_agreement(voted(*rows))
    assert (found.num_items, found.num_shared, found.raw.estimate) == (51, 1, 0)
    alone = measure_agreement(voted(*rows[:50]))
    assert (alone.raw, alone.alpha, alone.kappa, alone.majority) == (None, None, None, None)
    assert {note.code for note in alone.notes} == {"single_votes", "no_shared_items"}
    assert alone.annotators[0].others is None


def test_one_annotator_against_the_majority_of_the_others():
    rows = [
        *((0, who, "a") for who in ("ann", "bob", "cy", "eve")),
        *((1, who, choice) for who, choice in zip(("ann", "bob", "cy", "eve"), "aabb", strict=True)),
        *((2, who, "b") for who in ("ann", "bob", "cy")),
        (2, "eve", "a"),
        (3, "eve", "tie"),
    ]
    found = {one.annotator: one for one in measure_agreement(voted(*rows)).annotators}
    # item 1 without ann: a b b, so she differs; without eve: a a b
    assert (found["ann"].others.estimate, found["ann"].others.n) == (pytest.approx(2 / 3), 3)
    assert (found["eve"].others.estimate, found["eve"].others.n) == (pytest.approx(1 / 3), 3)
    assert found["eve"].ties == 0.25
    # without eve item 1 becomes a (was undecided); without ann it becomes b; item 2 stays b
    assert found["eve"].labels_changed == found["ann"].labels_changed == 1
    rest = [row for row in rows if row[1] != "eve"]
    assert found["eve"].alpha_without == pytest.approx(measure_agreement(voted(*rest)).alpha.estimate)


def test_a_preference_for_a_side_is_found():
    rng = np.random.default_rng(1)
    table, left = [], {}
    for i in range(300):
        shown = int(rng.integers(2))
        left[f"item {i}", "ann"] = shown
        table.append((f"item {i}", "ann", "ab"[shown] if rng.random() < 0.7 else "ab"[1 - shown]))
        left[f"item {i}", "bob"] = int(rng.integers(2))
        table.append((f"item {i}", "bob", "ab"[rng.integers(2)]))
    found = {one.annotator: one for one in measure_agreement(as_votes(table, left)).annotators}
    assert found["ann"].left.low > 0.6
    assert found["ann"].left_p < 1e-6
    assert found["bob"].left_p > 0.01
    assert found["bob"].left.low < 0.5 < found["bob"].left.high


def test_sides_that_never_change_are_announced():
    rows = [(f"item {i}", who, "ab"[i % 2]) for i in range(6) for who in ("ann", "bob")]
    found = measure_agreement(as_votes(rows, {(item, who): 0 for item, who, _ in rows}))
    assert "constant_sides" in {note.code for note in found.notes}


def test_a_listing_with_the_better_answer_first_is_announced():
    rows = [(i, who, "b" if i == 0 else "a") for i in range(10) for who in ("ann", "bob")]
    assert "one_sided_listing" in {note.code for note in measure_agreement(voted(*rows)).notes}


def test_repeats_show_consistency_and_the_last_vote_counts():
    rows = [(0, "ann", "a"), (0, "ann", "b"), (0, "ann", "b"), (1, "ann", "tie"), (1, "bob", "a"), (1, "ann", "tie")]
    votes = voted(*rows)
    assert votes.repeats == (Repeat(0, 0, False), Repeat(0, 0, True), Repeat(0, 1, True))
    found = measure_agreement(votes)
    assert found.annotators[0].consistency.estimate == pytest.approx(2 / 3)
    assert (found.num_votes, found.per_item) == (3, {1: 1, 2: 1})
    assert votes.choice[0] == 1


def test_intervals_cover_the_truth():
    """Annotators that are right with p and err independently agree with p² + (1 − p)², and α is (2p − 1)²."""
    rng = np.random.default_rng(2)
    p, raw, alpha = 0.8, 0, 0
    for seed in range(150):
        _, votes = simulated(rng, np.array([symmetric(p)] * 3), 150, 3)
        found = measure_agreement(votes, seed=seed, resamples=300)
        raw += found.raw.low <= p**2 + (1 - p) ** 2 <= found.raw.high
        alpha += found.alpha.low <= (2 * p - 1) ** 2 <= found.alpha.high
    assert raw / 150 > 0.9
    assert alpha / 150 > 0.9
