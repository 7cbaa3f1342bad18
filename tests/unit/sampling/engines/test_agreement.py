"""How far an engine is from the policy: numbers by hand, thresholds, and older weights that agree better."""

import numpy as np
import pytest

from support.errors import has_event, raises
from tiltlm.core.errors import RunError
from tiltlm.sampling.engines.agreement import Agreement, check_not_stale


def of(*values: float) -> list[np.ndarray]:
    return [np.float32([value]) for value in values]


def test_the_numbers_by_hand():
    found = Agreement.of([np.float32([-1, -2]), np.float32([-3])], [np.float32([-1.25, -1]), np.float32([-3])])
    assert (found.mean, found.max, found.num_tokens) == (pytest.approx(1.25 / 3), 1, 3)
    assert found.far == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("differences", "is_wrong", "warns"),
    [
        ([0.0] * 200, False, False),
        ([0.01] * 200, False, False),
        ([0.03] * 200, False, True),
        ([0.11] * 200, True, False),
        ([0.6, 0.6, 0.6] + [0.0] * 197, True, False),
        ([0.6] + [0.0] * 199, False, False),
        ([float("nan")] + [0.0] * 199, True, False),
    ],
)
def test_what_stops_and_what_warns(differences, is_wrong, warns, caplog):
    found = Agreement.of(of(*differences), of(*[0.0] * len(differences)))
    assert found.is_wrong == is_wrong
    if is_wrong:
        with raises(RunError, "other_weights", mentions=["what", "quantised", "way out"]):
            found.check("what", "http://x", "way out")
    else:
        found.check("what", "http://x", "way out")
    assert has_event(caplog, "engine_differs") == warns


NOW, BEFORE = of(-1.0, -2.0, -3.0), of(-1.001, -2.001, -3.001)


@pytest.mark.parametrize(
    ("theirs", "is_stale"),
    [
        (NOW, False),
        (BEFORE, True),
        (of(-1.0002, -2.0002, -3.0002), False),  # a fifth of the way: noise
        (of(-1.0009, -2.0009, -3.0009), True),
        (of(-1.01, -1.99, -3.01), False),  # noise ten times as large as the change says nothing
    ],
)
def test_older_weights_agree_better_than_those_of_now(theirs, is_stale):
    now = Agreement.of(theirs, NOW)
    if is_stale:
        with raises(RunError, "stale_weights", mentions=["round 4"]):
            check_not_stale(theirs, now, {"round 4": BEFORE}, "http://x", "")
    else:
        check_not_stale(theirs, now, {"round 4": BEFORE}, "http://x", "")


def test_weights_that_did_not_move_are_not_stale():
    check_not_stale(NOW, Agreement.of(NOW, NOW), {"round 0": NOW}, "http://x", "")
    moved = of(-1.000001, -2.000001, -3.000001)  # less than 32-bit numbers round
    check_not_stale(NOW, Agreement.of(NOW, moved), {"round 0": NOW}, "http://x", "")
