"""Groups: win rates and ranks by hand, and no answer depends on the place of a sample."""

import numpy as np
import pytest

from support.online import group_of
from tiltlm.online.groups import preference_of_pairs, preference_of_scores, sample_id


def test_win_rates_of_three_scores():
    """Bradley–Terry scores 0, 1, 2, each sample compared with itself too."""
    rates = group_of([0.0, 1.0, 2.0]).win_rates
    assert rates == pytest.approx([0.296048, 0.5, 0.703952], abs=5e-7)


def test_preferences_of_scores_are_mirrored_and_scaled():
    p = preference_of_scores([0.0, 2.0, np.nan], scale=2.0)
    assert p[1, 0] == pytest.approx(1 / (1 + np.exp(-1)))
    assert p[0, 1] + p[1, 0] == pytest.approx(1, abs=1e-15)
    assert np.isnan(p[0, 2])
    assert np.diag(p).tolist() == [0.5, 0.5, 0.5]


def test_pairs_that_were_not_compared_are_not_known():
    p = preference_of_pairs(3, [(0, 1, 0.8), (1, 2, None)])
    assert (p[0, 1], p[1, 0]) == (0.8, pytest.approx(0.2))
    assert np.isnan(p[[0, 1], [2, 2]]).all()
    group = group_of([np.nan] * 3, preference=p)
    assert group.values == pytest.approx([0.65, 0.35, np.nan], nan_ok=True), "the last one was compared with none"


def test_equal_values_are_ordered_by_id_and_not_by_place():
    scores = np.array([1.0, 3.0, 1.0, 3.0, np.nan])
    group = group_of(scores)
    names = [group.samples[k].id for k in group.ranked()]
    for seed in range(10):
        order = np.random.default_rng(seed).permutation(5)
        moved = group_of(scores[order], places=order)
        assert [moved.samples[k].id for k in moved.ranked()] == names
    assert names[:2] == sorted(names[:2])
    assert {group.samples[k].id for k in (1, 3)} == set(names[:2]), "the values come first"


def test_the_name_of_a_sample_depends_on_all_that_decides_it():
    names = {sample_id(p, t, w, k) for p in ("a", "b") for t in (0, 1) for w in ("policy", "data") for k in (0, 1)}
    assert len(names) == 16
    assert sample_id("a", 1, "policy", 0) != sample_id("a", 11, "policy", 0)
