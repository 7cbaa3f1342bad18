"""Rules from votes to labels, worked out by hand."""

import numpy as np
import pytest

from support.errors import raises
from tiltlm.core.errors import ConfigError
from tiltlm.data.labels import LabelSettings, as_votes, make_labels

TABLE = [
    *(("1 clear", who, "a") for who in ("ann", "bob", "cy")),
    ("2 split", "ann", "a"), ("2 split", "bob", "b"),
    ("3 tie", "ann", "tie"), ("3 tie", "bob", "tie"), ("3 tie", "cy", "b"),
    ("4 three ways", "ann", "a"), ("4 three ways", "bob", "b"), ("4 three ways", "cy", "tie"),
    ("5 alone", "cy", "b"),
    ("6 for b", "ann", "b"), ("6 for b", "bob", "b"), ("6 for b", "cy", "a"),
]  # fmt: skip


def labels(rule, **settings):
    return make_labels(as_votes(TABLE), LabelSettings(rule, **settings))


def test_soft_labels_are_shares():
    np.testing.assert_allclose(labels("soft").p, [1, 0.5, 1 / 3, 0.5, 0, 1 / 3])


def test_the_majority_needs_more_votes_than_any_other_class():
    np.testing.assert_array_equal(labels("majority").p, [1, 0.5, 0.5, 0.5, 0, 0])


def test_dawid_skene_counts_ties_half():
    found = labels("dawid_skene")
    model = found.model
    np.testing.assert_allclose(found.p, model.posterior[:, 0] + model.posterior[:, 2] / 2)
    assert found.p[0] > 0.8


def test_ties_and_few_votes_are_left_out_and_counted():
    found = labels("majority", ties="drop")
    np.testing.assert_array_equal(found.p, [1, np.nan, np.nan, np.nan, 0, 0])
    assert found.causes == {"tie": 3}
    found = labels("soft", min_votes=2)
    assert found.causes == {"few_votes": 1}
    assert np.isnan(found.p[4])
    found = labels("soft", min_votes=3, ties="drop")
    assert found.causes == {"few_votes": 2, "tie": 1}


@pytest.mark.parametrize(
    ("settings", "code", "key"),
    [
        ({"rule": "mean"}, "unknown_name", "--rule"),
        ({"ties": "half"}, "unknown_name", "--ties"),
        ({"min_votes": 0}, "not_positive", "--min-votes"),
        ({"prior": 2.0}, "no_effect", "--prior"),
        ({"rule": "dawid_skene", "prior": 0.0}, "not_positive", "--prior"),
    ],
)
def test_impossible_settings(settings, code, key):
    with raises(ConfigError, code, key=key):
        LabelSettings(**settings)
