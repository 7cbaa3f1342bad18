"""Rules that turn a list into comparisons, worked out by hand, and what they must not depend on."""

import math
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.errors import raises
from tiltlm.core.errors import ConfigError, DataError
from tiltlm.data import load_data
from tiltlm.data.accounting import Defect
from tiltlm.data.data_settings import DataSettings
from tiltlm.data.rows.columns import detect
from tiltlm.data.rows.comparisons import RULES, best_and_worst, choose_comparisons, in_random_order
from tiltlm.data.rows.convert import announce, chooses_comparisons
from tiltlm.data.rows.records import Record, implied_comparisons


def record(scores=(), ranks=(), texts="abcdefgh"):
    num = len(scores or ranks)
    comparisons = implied_comparisons(tuple(ranks), tuple(scores))
    return Record("f:1", "f:1", "Why?", tuple(texts[:num]), comparisons, ranks=tuple(ranks), scores=tuple(scores))


def chosen(rule, row, **settings):
    found = choose_comparisons(row, DataSettings(train="f", comparisons=rule, **settings))
    return sorted((row.responses[c.chosen], row.responses[c.rejected]) for c in found.comparisons)


def test_each_rule_by_hand():
    row = record(scores=(3.0, 1.0, 2.0, 2.0))  # a > c = d > b
    assert chosen("all", row) == [("a", "b"), ("a", "c"), ("a", "d"), ("c", "b"), ("d", "b")]
    assert chosen("best_worst", row) == [("a", "b")]
    assert chosen("gap", row, min_gap=1.5) == [("a", "b")]
    assert chosen("gap", row, min_gap=1.0) == chosen("all", row)
    (pair,) = chosen("random", row)
    assert pair in chosen("all", row)
    assert len(chosen("bradley_terry", row)) == 6


def test_ranks_are_ordered_from_1():
    row = record(ranks=(2, 1, 3))
    assert chosen("best_worst", row) == [("b", "c")]


@pytest.mark.parametrize("rule", ["best_worst", "random", "gap", "bradley_terry"])
@given(scores=st.lists(st.integers(0, 4), min_size=2, max_size=6).filter(lambda s: len(set(s)) > 1), data=st.data())
def test_the_order_of_the_list_decides_nothing(rule, scores, data):
    order = data.draw(st.permutations(range(len(scores))))
    row = record(scores=[float(s) for s in scores])
    moved = Record(
        "g:9", "g:9", "Why?", tuple(row.responses[k] for k in order), scores=tuple(row.scores[k] for k in order)
    )
    moved = replace(moved, comparisons=implied_comparisons((), moved.scores))
    settings = {"min_gap": 1.0} if rule == "gap" else {}
    assert chosen(rule, row, **settings) == chosen(rule, moved, **settings)


def test_random_pairs_are_spread_and_the_seed_matters():
    rows = [record(scores=(1.0, 2.0, 3.0), texts=[f"{k} a", f"{k} b", f"{k} c"]) for k in range(600)]
    found = [chosen("random", row)[0] for row in rows]
    for pair in (("b", "a"), ("c", "a"), ("c", "b")):
        count = sum((won[-1], lost[-1]) == pair for won, lost in found)
        assert abs(count - 200) < 5 * math.sqrt(600 * 2 / 9)
    assert found != [chosen("random", row, comparisons_seed=1)[0] for row in rows]


@pytest.mark.parametrize("gap", [0.0, 0.7, 2.0])
def test_drawn_winners_follow_bradley_and_terry(gap):
    rows = [record(scores=(gap, 0.0), texts=[f"{k} better", f"{k} other"]) for k in range(2000)]
    wins = sum(chosen("bradley_terry", row)[0][0].endswith("better") for row in rows)
    p = 1 / (1 + math.exp(-gap))
    assert abs(wins - 2000 * p) < 5 * math.sqrt(2000 * p * (1 - p))


def test_large_scores_do_not_overflow():
    assert chosen("bradley_terry", record(scores=(1e6, -1e6))) == [("a", "b")]


@pytest.mark.parametrize(
    ("rule", "scores", "code"),
    [
        ("best_worst", (1.0, 1.0), "no_comparison"),
        ("gap", (1.0, 1.2), "small_gap"),
        ("gap", (1.0, 1.0), "no_comparison"),
    ],
)
def test_rows_without_a_comparison(rule, scores, code):
    with pytest.raises(Defect) as caught:
        chosen(rule, record(scores=scores), **({"min_gap": 1.0} if rule == "gap" else {}))
    assert caught.value.code == code


def test_equal_responses_are_not_compared():
    row = record(scores=(3.0, 1.0, 2.0), texts=["same", "same", "other"])
    assert chosen("all", row) == [("other", "same"), ("same", "other")]
    with pytest.raises(Defect):
        chosen("best_worst", row)


def test_best_and_worst_among_equals():
    assert best_and_worst([1.0, 1.0], ["x", "y"]) is None
    assert best_and_worst([1.0], ["x"]) is None
    first = best_and_worst([2.0, 2.0, 1.0], ["x", "y", "z"])
    second = best_and_worst([2.0, 2.0, 1.0], ["y", "x", "z"])
    assert "xyz"[first[0]] == "yxz"[second[0]]


def test_the_order_of_pairs_depends_on_names_and_seed_only():
    names = ["p", "q", "r", "s"]
    pairs = list(combinations(range(4), 2))
    by_name = [{names[i], names[j]} for i, j in in_random_order(pairs, names, 0)]
    turned = [{names[::-1][i], names[::-1][j]} for i, j in in_random_order(pairs[::-1], names[::-1], 0)]
    assert by_name == turned
    assert by_name != [{names[i], names[j]} for i, j in in_random_order(pairs, names, 1)]


def schema(*columns):
    return detect(dict.fromkeys(columns, "f:1"), DataSettings(train="f"))


def test_the_rule_is_announced():
    lists = schema("prompt", "completions", "scores")
    for rule, kind in RULES.items():
        (note,) = announce(lists, "pairs", rule=rule)
        assert note.code == "lists_to_pairs"
        assert kind.note in note


@pytest.mark.parametrize(
    ("columns", "shape", "rule", "error", "code"),
    [
        (("prompt", "chosen", "rejected"), "pairs", "random", ConfigError, "no_effect"),
        (("prompt", "completions", "comparisons"), "pairs", "all", None, None),
        (("prompt", "completions", "comparisons"), "pairs", "best_worst", ConfigError, "no_effect"),
        (("prompt", "completions", "ranks"), "lists", "best_worst", ConfigError, "no_effect"),
        (("prompt", "completions", "ranks"), "demonstrations", "best_worst", ConfigError, "no_effect"),
        (("prompt", "completions", "ranks"), "pairs", "best_worst", None, None),
        (("prompt", "completions", "ranks"), "pairs", "gap", DataError, "missing_column"),
        (("prompt", "completions", "ranks"), "pairs", "bradley_terry", DataError, "missing_column"),
        (("prompt", "completions", "scores"), "pairs", "bradley_terry", None, None),
    ],
)
def test_a_rule_that_cannot_work_is_refused(columns, shape, rule, error, code):
    if error is None:
        announce(schema(*columns), shape, rule=rule)
        return
    with raises(error, code, key="data.comparisons"):
        announce(schema(*columns), shape, rule=rule)
    assert not chooses_comparisons(schema(*columns), shape) or error is DataError


@pytest.mark.parametrize(
    ("settings", "code", "key"),
    [
        ({"comparisons": "best"}, "unknown_name", "data.comparisons"),
        ({"comparisons": "gap"}, "missing_setting", "data.comparisons"),
        ({"comparisons": "gap", "min_gap": 0.0}, "not_positive", "data.min_gap"),
        ({"min_gap": 1.0}, "no_effect", "data.min_gap"),
        ({"comparisons_seed": 1}, "no_effect", "data.comparisons_seed"),
        ({"comparisons": "random", "comparisons_seed": -1}, "negative", "data.comparisons_seed"),
    ],
)
def test_settings_without_effect_are_refused(settings, code, key):
    with raises(ConfigError, code, key=key):
        DataSettings(train="f", **settings)


@pytest.fixture
def load(encoder, jsonl):
    """Return a function that loads scored lists for an objective of some shape."""

    def run(rows, shape="pairs", **settings):
        return load_data(DataSettings(train=jsonl(rows), **settings), encoder, shape)

    return run


SCORED = [
    {"prompt": f"q {k}", "completions": [f"a {k}", f"b {k}", f"c {k}"], "scores": [k % 3, 1.5, 5]} for k in range(30)
]


def test_examples_have_the_comparisons_of_the_rule_and_the_log_says_so(load):
    every, best = load(SCORED), load(SCORED, comparisons="best_worst")
    assert {len(example.comparisons) for example in every.train} == {3}
    for example, row in zip(best.train, SCORED, strict=True):
        (c,) = example.comparisons
        assert (c.chosen, c.rejected) == (2, row["scores"].index(min(row["scores"])))
    assert any(note.code == "lists_to_pairs" and RULES["best_worst"].note in note for note in best.notes)
    assert every.fingerprint != best.fingerprint


def test_rows_without_a_gap_are_left_out_as_asked(load):
    rows = [*SCORED, *({**row, "scores": [1, 1.5, 1.2]} for row in SCORED)]
    data = load(rows, comparisons="gap", min_gap=2.0)
    assert len(data.train) == 30
    assert data.accounting.losses["small_gap"].count == 30
    assert data.accounting.defects == 0


def test_the_best_demonstration_is_that_of_all_comparisons(load):
    with raises(ConfigError, "no_effect", key="data.comparisons"):
        load(SCORED, "demonstrations", comparisons="best_worst")
