"""The comparison as a whole: mirrored exactly, honest about failures, about categories and about three systems."""

import numpy as np
import pytest

from support.answered import Lengths, Says, row, system
from tiltlm.diagnostics.comparing.win_rate import mirror
from tiltlm.evaluation.answers.system_comparison import compare_systems
from tiltlm.evaluation.answers.systems import System, prompt_key


def answers(n: int, mean: float, seed: int, **columns) -> tuple:
    """Return n rows whose answers have random lengths."""
    rng = np.random.default_rng(seed)
    return tuple(
        row(f"prompt {i}", *("x" * int(rng.poisson(mean)) + f" {seed}.{k}" for k in range(2)), **columns)
        for i in range(n)
    )


def opposite(interval):
    return (-interval.estimate, -interval.high, -interval.low)


@pytest.mark.parametrize("judge", [Lengths(), Says(lambda a, b: (len(a) + 3) / (len(a) + len(b) + 7))])
def test_exchanging_the_systems_mirrors_every_number_exactly(judge):
    a, b = System("a", answers(120, 30, 1)), System("b", answers(120, 33, 2))
    (one,), (two,) = compare_systems([a, b], judge).pairs, compare_systems([b, a], judge).pairs
    assert (one.first, two.first) == ("a", "b")
    assert two.win_rate == one.win_rate.mirrored
    assert two.length_control.rate == mirror(one.length_control.rate)
    assert two.length_control.coefficient == one.length_control.coefficient
    for key, shift in one.shifts.items():
        assert (two.shifts[key].estimate, two.shifts[key].low, two.shifts[key].high) == opposite(shift)
    if one.score_difference is not None:
        assert two.score_difference.estimate == -one.score_difference.estimate
    assert [p.answers for p in two.losses] == [p.answers[::-1] for p in one.wins]


def test_equal_systems_are_a_tie_within_the_interval():
    found = compare_systems([System("a", answers(150, 30, 1)), System("b", answers(150, 30, 2))], Lengths()).pairs[0]
    assert found.outcome == "undecided"
    assert found.win_rate.rate.low < 0.5 < found.win_rate.rate.high


def test_the_longer_system_wins_only_by_its_length():
    a, b = System("a", answers(300, 34, 1)), System("b", answers(300, 30, 2))
    found = compare_systems([a, b], Lengths()).pairs[0]
    assert found.outcome == "first"
    assert found.length_control.rate.estimate < found.win_rate.rate.low
    assert found.shifts["length"].low > 0


def test_too_many_failures_leave_no_headline():
    good = {f"p{i}": f"good {i}" for i in range(100)}
    judge = Says(lambda a, b: "error" if a.endswith("9") or b.endswith("9") else "left" if a > b else "right")
    found = compare_systems([system("a", good), system("b", {p: f"fine {p[1:]}" for p in good})], judge).pairs[0]
    assert found.error_share == 0.1
    assert found.outcome == "no_headline"
    assert found.win_rate.rate.estimate == 1.0
    assert found.win_rate.num_prompts == 90


def test_a_judge_that_always_fails_gives_no_numbers():
    found = compare_systems([system("a", {"p": "x"}), system("b", {"p": "y"})], Says(lambda a, b: "error"))
    assert found.pairs[0].win_rate is None
    assert found.pairs[0].outcome == "no_headline"


def test_categories_are_adjusted_by_holm():
    easy = tuple(row(f"e{i}", "x" * 9, category="easy") for i in range(30))
    hard = tuple(row(f"h{i}", "x" * (4 + 3 * (i % 2)), category="hard") for i in range(30))
    others = {f"e{i}": "x" * 5 for i in range(30)} | {f"h{i}": "x" * 5 for i in range(30)}
    found = compare_systems([System("a", easy + hard), system("b", others)], Lengths()).pairs[0]
    assert [(rate.name, rate.win_rate.rate.estimate) for rate in found.by_category] == [("easy", 1.0), ("hard", 0.5)]
    assert found.by_category[0].adjusted_p == pytest.approx(2 * found.by_category[0].win_rate.p_value)
    assert found.by_category[1].adjusted_p == 1.0


def test_three_systems_have_strengths_and_holm_over_pairs():
    systems = [System(name, answers(150, mean, k)) for k, (name, mean) in enumerate((("s", 24), ("m", 30), ("l", 36)))]
    found = compare_systems(systems, Lengths())
    assert len(found.pairs) == 3
    strengths = dict(zip(found.strengths.names, (s.estimate for s in found.strengths.strengths), strict=True))
    assert strengths["s"] < strengths["m"] < strengths["l"]
    rates = {(pair.first, pair.second): pair for pair in found.pairs}
    assert all(pair.adjusted_p >= pair.win_rate.p_value for pair in rates.values())
    again = compare_systems(systems[::-1], Lengths())
    assert again.strengths == found.strengths


def test_a_baseline_is_the_zero_of_strength():
    systems = [System(name, answers(60, mean, k)) for k, (name, mean) in enumerate((("s", 24), ("m", 30), ("l", 36)))]
    found = compare_systems(systems, Lengths(), baseline="m")
    assert [(pair.first, pair.second) for pair in found.pairs] == [("s", "m"), ("l", "m")]
    assert found.strengths.strengths[found.strengths.names.index("m")].estimate == 0


def test_win_rate_at_each_temperature():
    hot = System("a", tuple(row(f"p{i}", "x" * (3 if t else 1), temperature=t) for i in range(20) for t in (0.0, 1.0)))
    found = compare_systems([hot, system("b", {f"p{i}": "xx" for i in range(20)})], Lengths()).pairs[0]
    assert [(t, rate.rate.estimate) for t, rate in found.by_temperature] == [(0.0, 0.0), (1.0, 1.0)]
    assert found.win_rate.rate.estimate == 0.5
    assert found.win_rate.num_prompts == 20


def test_prompts_of_the_training_data_are_named():
    known = frozenset({prompt_key("p1"), prompt_key("elsewhere")})
    a = system("a", {"p1": "x", "p2": "y"}, trained_on=known)
    found = compare_systems([a, system("b", {"p1": "xx", "p2": "yy"})], Lengths())
    assert found.overlap == {prompt_key("p1"): ("a",)}
    assert [numbers.trained_on for numbers in found.systems] == [1, None]


def test_refusals_and_diversity_shift():
    a = system("a", {f"p{i}": "I'm sorry, I can't." for i in range(30)})
    b = system("b", {f"p{i}": "one two three four" for i in range(30)})
    found = compare_systems([a, b], Lengths())
    assert found.pairs[0].shifts["refusals"].estimate == 1.0
    assert found.systems[1].numbers["refusals"].estimate == 0.0
    assert "distinct_2" in found.pairs[0].shifts
