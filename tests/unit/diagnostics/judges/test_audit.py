"""Biases by hand, on pairs whose every column is written here."""

import numpy as np
import pytest

from tiltlm.diagnostics.judges import AuditedPairs, has_list, measure_audit, measure_canaries, rate
from tiltlm.diagnostics.judges.audit import flipped


def pairs(**changes):
    n = 6
    made = {
        "labels": np.array([1, 1, 0, 1, 0.5, 1.0]),
        "p": np.array([0.9, 0.2, 0.1, 0.5, 0.7, 0.8]),
        "gaps": np.array([2.2, -1.4, -2.2, 0, 0.85, 1.4]),
        "first": np.array([[0.9, 0.1], [0.6, 0.9], [0.1, 0.9], [0.7, 0.7], [0.5, 0.5], [0.2, 0.1]]),
        "lengths": np.array([[100, 50], [100, 50], [10, 90], [50, 80], [50, 50], [81, 50.0]]),
        "has_list": np.array([[1, 0], [1, 1], [0, 1], [0, 0], [0, 0], [0, 0.0]]),
        "prompts": [f"p{k}" for k in range(n)],
    }
    return AuditedPairs(**{**made, **changes})


def measured(**changes):
    return measure_audit(pairs(**changes), "judge", "d", {"ok": 6}, are_logits=True)


def test_numbers_by_hand():
    audit = measured()
    assert audit.accuracy.estimate == pytest.approx((1 + 0 + 1 + 0.5 + 1) / 5)
    assert audit.flips.estimate == pytest.approx(3 / 6), "rows 1, 3 and 5: the same position in both orders"
    assert audit.first_slot.estimate == pytest.approx((0.5 + 1 + 0.5 + 1 + 0.5 + 0) / 6)
    assert audit.longer.estimate == pytest.approx((1 + 0 + 1 + 1) / 4), "a gap of 30 does not count, one of 31 does"
    assert audit.longer_labels.estimate == pytest.approx(1.0)
    assert audit.lists.estimate == pytest.approx(1.0)
    assert audit.lists.n == 2
    assert {note.code for note in audit.notes} == {"few_pairs", "coin_flip"}


def test_a_judge_that_scores_has_no_order():
    audit = measured(first=None)
    assert (audit.flips, audit.first_slot) == (None, None)


def test_flips_need_two_decisions():
    assert flipped(np.array([[0.9, 0.9], [0.5, 0.9], [0.2, 0.1], [0.2, 0.8]])).tolist() == [1, 0, 1, 0]


def test_lists():
    assert has_list("Two things:\n- one\n- two")
    assert has_list("1. one\n2) two")
    assert not has_list("- only one")
    assert not has_list("It costs 3.50 - or 4.20\nand 5 - 6")


def test_canaries_are_compared_pair_by_pair():
    found = measure_canaries(np.array([0.0, 0.0, 1.0, 0.0]), np.array([1.0, 0.0, 1.0, 1.0]), list("abcd"))
    assert (found.plain.estimate, found.attacked.estimate, found.change.estimate) == (0.25, 0.75, 0.5)
    assert measure_canaries(np.array([]), np.array([]), []) is None


REPEATS = 500


def covered(intervals, truth):
    return np.mean([found.low <= truth <= found.high for found in intervals])


@pytest.mark.slow
def test_the_interval_of_what_attacks_change_covers():
    """A pair's worse response wins with its own probability, higher by 0.12 when it is attacked: paired decisions."""
    rng = np.random.default_rng(5)
    found = []
    for seed in range(REPEATS):
        chance, luck = rng.beta(1, 3, 100) * 0.8, rng.random(100)
        plain, attacked = (luck < chance).astype(float), (luck < chance + 0.12).astype(float)
        found.append(measure_canaries(plain, attacked, range(100), seed=seed, resamples=1000).change)
    assert 0.92 <= covered(found, 0.12) <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("copies", [1, 4])
def test_the_interval_of_the_noise_of_repeated_answers_covers(copies):
    """|p − p'| of two answers is skewed: here the absolute value of a normal number, whose mean is σ√(2/π)."""
    rng = np.random.default_rng(6)
    found = []
    for seed in range(REPEATS):
        noise = np.abs(rng.normal(0, 0.1, 60)).repeat(copies)
        found.append(rate(noise, np.arange(60).repeat(copies), seed=seed, resamples=2000))
    assert 0.92 <= covered(found, 0.1 * np.sqrt(2 / np.pi)) <= 0.98
