"""Weights of comparisons against the closed forms of their links."""

import numpy as np
import pytest

from tiltlm.core import Comparison
from tiltlm.evaluation.example_rows import ExampleRow, ResponseRow
from tiltlm.evaluation.pair_weights import measure_pair_weights, slopes
from tiltlm.links import Hinge, Logistic, Squared


def rows(margins, preference=1.0, offset=0.0):
    return [
        ExampleRow(
            str(i),
            str(i),
            (ResponseRow(-1.0, 2, float(m)), ResponseRow(-1.0, 2, 0.0)),
            (Comparison(0, 1, preference=preference, offset=offset),),
        )
        for i, m in enumerate(margins)
    ]


def test_slopes_of_known_links():
    margins = np.array([-2.0, 0.0, 3.0])
    ones = np.ones(3)
    assert slopes(Logistic(), margins, ones) == pytest.approx(1 / (1 + np.exp(margins)))
    soft = slopes(Logistic(), margins, np.full(3, 0.7))
    assert soft == pytest.approx(np.abs(1 / (1 + np.exp(-margins)) - 0.7))
    assert slopes(Hinge(), margins, ones).tolist() == [1.0, 1.0, 0.0]


def test_equal_margins_weigh_the_same():
    found = measure_pair_weights(rows([0.0] * 20), rows([1.5] * 20), Logistic())
    assert found.effective_share == pytest.approx((1.0, 1.0))
    assert found.heaviest_tenth == pytest.approx((0.1, 0.1))
    assert found.mean.before.estimate == pytest.approx(0.5)
    assert found.mean.after.estimate == pytest.approx(1 / (1 + np.exp(1.5)))


def test_a_few_wrong_pairs_carry_the_weight_after_training():
    after = rows([-5.0] * 2 + [8.0] * 18)
    found = measure_pair_weights(rows([0.0] * 20), after, Logistic())
    w = 1 / (1 + np.exp(np.array([-5.0] * 2 + [8.0] * 18)))
    assert found.effective_share[1] == pytest.approx(w.sum() ** 2 / (20 * (w**2).sum()))
    assert found.heaviest_tenth[1] == pytest.approx(w[:2].sum() / w.sum())
    assert found.heaviest_tenth[1] > 0.99


def test_the_offset_moves_the_margin():
    found = measure_pair_weights(rows([0.0] * 3, offset=1.0), rows([1.0] * 3, offset=1.0), Logistic())
    assert found.mean.before.estimate == pytest.approx(1 / (1 + np.exp(-1.0)))
    assert found.mean.after.estimate == pytest.approx(0.5)


def test_no_comparisons_no_weights():
    assert measure_pair_weights([], [], Squared(0.5)) is None
