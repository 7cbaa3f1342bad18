"""Curves from the records of metrics.jsonl."""

import pytest

from support.made_up_reports import history
from tiltlm.report import series_of
from tiltlm.report.series import MAX_POINTS


def named(series):
    return {(s.name, s.part): s for s in series}


def test_training_and_held_out_values_are_separate():
    found = named(series_of(history(3)))
    assert found["loss", "train"].values == pytest.approx((1, 1 / 2, 1 / 3))
    assert found["loss", "held_out"].values == pytest.approx((1.1, 0.55, 1.1 / 3))
    assert found["loss", "held_out"].steps == (1, 2, 3)
    assert ("rewards/accuracies", "train") not in found
    assert not any(name in ("grad_norm", "seconds") for name, _ in found)


def test_values_that_are_not_finite_are_left_out():
    found = series_of([{"step": 1, "loss": "NaN"}, {"step": 2, "loss": "Infinity"}, {"step": 3, "loss": 0.5}])
    assert [(s.steps, s.values) for s in found] == [((3,), (0.5,))]
    assert series_of([{"step": 1, "loss": "NaN"}]) == ()


def test_long_runs_are_thinned_by_averaging():
    records = [{"step": step, "loss": float(step)} for step in range(10_000)]
    (found,) = series_of(records)
    assert MAX_POINTS / 2 <= len(found.steps) <= MAX_POINTS
    assert found.steps == found.values
    assert found.values[0] == pytest.approx(sum(range(42)) / 42)


def test_nothing_recorded():
    assert series_of([]) == ()
