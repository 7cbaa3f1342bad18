from datetime import UTC, datetime

import pytest

from support.label_facts import make_facts
from tiltlm.labeling.monitor.coverage import (
    measure_coverage,
    skips_by_reason,
    votes_by_day,
    votes_by_guidelines,
)

VOTES = [
    *[(0, "ann", "a"), (0, "bob", "a")],  # complete
    *[(1, "ann", "a"), (1, "bob", "b")],  # disputed: a third vote is wanted
    (2, "ann", "tie"),
    *[(3, "ann", "skip", {"reason": "harmful content"}), (4, "ann", "skip")],
]


def test_coverage_by_hand():
    found = measure_coverage(make_facts(VOTES, num_pairs=6, people=("ann", "bob", "cho"), overlap=2, extra=1))
    assert found.num_pairs == 6
    assert found.per_pair == {0: 3, 1: 1, 2: 2}
    assert (found.num_done, found.num_complete, found.num_wanted) == (5, 1, 13)
    # 8 votes are missing; half of the judged pairs were disputed, so 4 others are expected to ask for 2 more
    assert found.num_expected == pytest.approx(8 + 2)
    assert found.share == pytest.approx(5 / 15)
    assert found.num_decided == 3


def test_votes_that_nobody_can_give():
    found = measure_coverage(make_facts(VOTES, num_pairs=6, people=("ann", "bob"), overlap=2, extra=1))
    # pair 1 wants a third person; pairs 3 and 4 were skipped by one of two
    assert found.num_out_of_reach == 1 + 1 + 1
    assert measure_coverage(make_facts(VOTES, num_pairs=6, people=(*"abcd",), overlap=2)).num_out_of_reach == 0


def test_gold_calibration_and_repeats_are_no_coverage():
    votes = [(0, "ann", "a"), (0, "ann", "b", {"is_repeat": True}), (1, "ann", "a"), (2, "ann", "a")]
    facts = make_facts(votes, num_pairs=3, kinds={1: "gold", 2: "calibration"}, overlap=1)
    found = measure_coverage(facts)
    assert (found.num_pairs, found.num_done, found.num_complete, found.num_expected) == (1, 1, 1, 0)


def test_without_pairs_nothing_is_done():
    found = measure_coverage(make_facts([], num_pairs=0))
    assert (found.num_pairs, found.share) == (0, 0.0)


def test_votes_by_day_version_and_reason():
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()
    votes = [
        (0, "ann", "a", {"server_time": noon}),
        (1, "ann", "skip", {"server_time": noon + 13 * 3600, "reason": "needs an expert", "guideline_version": 1}),
        (2, "ann", "skip", {"server_time": noon + 14 * 3600}),
    ]
    facts = make_facts(votes, num_pairs=3)
    assert votes_by_day(facts) == {"2026-03-01": 1, "2026-03-02": 2}
    assert votes_by_guidelines(facts) == {1: 3}
    assert skips_by_reason(facts) == {"needs an expert": 1, "no reason": 1}
