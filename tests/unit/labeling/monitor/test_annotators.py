import numpy as np
import pytest
from scipy.stats import binomtest
from statsmodels.stats.proportion import proportion_confint

from support.label_facts import make_facts
from tiltlm.data.labels import measure_agreement
from tiltlm.labeling.monitor.annotators import is_fast, measure_annotators


def measured(votes, **options):
    facts = make_facts(votes, **options)
    agreement = measure_agreement(facts.first_votes, resamples=50) if len(facts.task_votes.choice) else None
    return {one.name: one for one in measure_annotators(facts, agreement)}


def codes(numbers):
    return {flag.code for flag in numbers.flags}


def test_the_left_side_by_hand():
    votes = [(k, "ann", "a" if k < 89 else "b", {"left": "a"}) for k in range(120)]
    found = measured(votes, num_pairs=120, overlap=1)["ann"]
    assert found.left.estimate == pytest.approx(89 / 120)
    assert found.left_p == pytest.approx(binomtest(89, 120).pvalue)
    assert codes(found) == {"side_bias"}
    assert found.flags[0].startswith("chooses the left side in 74\N{NO-BREAK SPACE}% of 120 votes (p < 0.001)")


def test_gold_and_calibration_are_apart():
    votes = [
        *((k, "ann", "a" if k < 6 else "both_bad") for k in range(8)),
        *((k, "ann", "b") for k in range(8, 10)),
        (10, "ann", "skip"),
    ]
    answers = dict.fromkeys(range(7), "a") | {7: "tie", 8: "b", 9: "b", 10: "a"}
    kinds = dict.fromkeys(range(8), "gold") | dict.fromkeys(range(8, 11), "calibration")
    found = measured(votes, num_pairs=11, kinds=kinds, answers=answers)["ann"]
    assert (found.gold.estimate, found.gold.n) == (7 / 8, 8)  # both bad is right where the answer is a tie
    low, high = proportion_confint(7, 8, method="wilson")
    assert (found.gold.low, found.gold.high) == pytest.approx((low, high))
    assert (found.calibration.estimate, found.calibration.n) == (1, 2)
    assert (found.num_votes, found.num_skips) == (0, 1)


def test_pace_leaves_out_breaks():
    times = [0, 60, 120, 4000, 4060]
    votes = [(k, "ann", "a", {"server_time": float(time)}) for k, time in enumerate(times)]
    assert measured(votes, num_pairs=5, overlap=1)["ann"].votes_per_hour == pytest.approx(60)
    assert measured(votes[:1], num_pairs=5, overlap=1)["ann"].votes_per_hour is None


def test_very_fast_votes():
    assert is_fast(1999, 10)
    assert not is_fast(2000, 10)
    assert is_fast(9999, 1000)  # 1,000 characters take ten seconds at four times the speed of reading
    assert not is_fast(10_000, 1000)
    votes = [(k, "ann", "a" if k % 2 else "b", {"dwell_ms": 500 if k < 4 else 30_000}) for k in range(16)]
    found = measured(votes, num_pairs=16, overlap=1)["ann"]
    assert (found.num_fast, found.num_timed, found.median_seconds) == (4, 16, 30)
    assert codes(found) == {"fast_votes"}
    assert codes(measured(votes[1:], num_pairs=16, overlap=2)["ann"]) == {"fast_votes"}
    assert codes(measured(votes[:9], num_pairs=16, overlap=1)["ann"]) == set()  # too few to say so


def test_repeats_count_once_and_show_consistency():
    votes = [(k, "ann", "a") for k in range(4)] + [(k, "ann", "ab"[k % 2], {"is_repeat": True}) for k in range(4)]
    found = measured(votes, num_pairs=4, overlap=1)["ann"]
    assert found.num_votes == 4
    assert (found.consistency.estimate, found.consistency.n) == (0.5, 4)


def test_agreement_with_the_others_leaves_out_votes_that_disagreement_asked_for():
    """Two people disagree everywhere, and a third one decides: no two first votes agree."""
    votes = [(k, who, choice) for k in range(20) for who, choice in (("ann", "a"), ("bob", "b"), ("cho", "a"))]
    facts = make_facts(votes, num_pairs=20, overlap=2, extra=1)
    assert len(facts.task_votes.choice) == 60
    agreement = measure_agreement(facts.first_votes, resamples=50)
    assert agreement.raw.estimate == 0
    found = {one.name: one for one in measure_annotators(facts, agreement)}
    assert found["cho"].num_votes == 20
    assert found["ann"].others.estimate == 0


def crowd(rng, num_pairs, people, careless=()):
    """Return votes of people who are right 80 % of the time, on random sides; careless ones guess."""
    votes = []
    for k in range(num_pairs):
        truth = rng.integers(2)
        gold = k < num_pairs // 4
        for who in people:
            right = rng.random() < (0.5 if who in careless else 0.8)
            votes.append((k, who, "ab"[truth if right else 1 - truth], {"left": "ab"[rng.integers(2)]}))
            if not gold and k % 10 == 0:
                again = votes[-1][2] if rng.random() < 0.9 else "ab"[rng.integers(2)]
                votes.append((k, who, again, {"is_repeat": True}))
        votes.append((k, "truth", "ab"[truth]))
    gold = range(num_pairs // 4)
    answers = {k: next(c for p, who, c, *_ in votes if who == "truth" and p == k) for k in gold}
    votes = [vote for vote in votes if vote[1] != "truth"]
    return votes, {"num_pairs": num_pairs, "kinds": dict.fromkeys(gold, "gold"), "answers": answers}


def test_a_guesser_is_found():
    people = [f"person {k}" for k in range(6)]
    votes, options = crowd(np.random.default_rng(0), 240, people, careless=("person 3",))
    found = measured(votes, overlap=6, **options)
    assert {"gold", "unlike_others"} <= codes(found["person 3"])
    assert not any(codes(found[name]) for name in people if name != "person 3")


def test_honest_people_are_rarely_flagged():
    """At the level 0.05, flags in more than 7 of 50 projects have a probability of 0.3 %."""
    rng = np.random.default_rng(1)
    people = [f"person {k}" for k in range(5)]
    flagged = 0
    for _ in range(50):
        votes, options = crowd(rng, 40, people)
        flagged += any(codes(one) for one in measured(votes, overlap=5, **options).values())
    assert flagged <= 7


def test_somebody_without_votes_is_listed():
    found = measured([(0, "ann", "a")], num_pairs=2, people=("ann", "bob"))
    assert (found["bob"].num_votes, found["bob"].gold, found["bob"].flags) == (0, None, ())
    assert measured([], num_pairs=2, people=("ann",))["ann"].ties is None
