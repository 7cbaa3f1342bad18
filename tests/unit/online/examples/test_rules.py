"""Example rules: by hand, with ties that no place breaks, and causes that are counted."""

from collections import Counter

import numpy as np
import pytest

from support.errors import raises
from support.online import group_of
from tiltlm.core import ConfigError
from tiltlm.online.examples.rules import RULES, ExampleSettings, form_examples


def formed(groups, **settings):
    return form_examples(groups if isinstance(groups, list) else [groups], ExampleSettings(**settings))


def chosen_and_rejected(example):
    (one,) = example.comparisons
    return [example.responses[k].token_ids.tolist() for k in (one.chosen, one.rejected)]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_a_pair_has_the_probability_as_its_label():
    (example,), dropped = formed(group_of([0.0, 1.5]))
    assert chosen_and_rejected(example) == [[11, 11], [10]]
    assert example.comparisons[0].preference == pytest.approx(sigmoid(1.5))
    assert example.scores == (0.0, 1.5)
    assert not dropped
    (hard,), _ = formed(group_of([0.0, 1.5]), soft=False)
    assert hard.comparisons[0].preference == 1.0


@pytest.mark.parametrize("rule", ["pair", "best_worst", "random_pairs", "all_pairs", "short_best"])
def test_equal_scores_give_no_pair(rule):
    assert formed(group_of([1.0, 1.0]), rule=rule) == ([], Counter({"tie": 1}))
    assert formed(group_of([1.0, 1.0]), rule=rule, soft=False) == ([], Counter({"tie": 1}))


@pytest.mark.parametrize("rule", ["pair", "best_worst", "random_pairs", "all_pairs", "short_best"])
def test_equal_tokens_are_no_pair(rule):
    group = group_of([1.0, 2.0], tokens=[[7, 8], [7, 8]])
    assert formed(group, rule=rule) == ([], Counter({"same_tokens": 1}))


@pytest.mark.parametrize("rule", [rule for rule in RULES if RULES[rule].max_samples is None])
def test_the_place_of_a_sample_changes_nothing(rule):
    """Scores with ties at both ends: the same tokens are chosen, however the group is permuted."""
    scores = np.array([2.0, 0.0, 2.0, 1.0, 0.0])
    who = np.array(["policy", "reference" if RULES[rule].rivals else "policy"])[[0, 1, 0, 1, 0]]

    def outcome(order):
        settings = {"num_pairs": 3} if rule == "random_pairs" else {}
        examples, dropped = formed(
            group_of(scores[order], places=order, who=who[order].tolist()), rule=rule, **settings
        )
        pairs = [
            (
                e.responses[c.chosen].token_ids.tolist(),
                e.responses[c.rejected].token_ids.tolist(),
                round(c.preference, 12),
            )
            for e in examples
            for c in e.comparisons
        ]
        credited = [
            (r.token_ids.tolist(), round(c.advantage, 12))
            for e in examples
            for r, c in zip(e.responses, e.credits, strict=False)
        ]
        imitated = [
            (r.token_ids.tolist(), [round(score, 12) for score in e.scores[k : k + 1]])
            for e in examples
            if not e.comparisons and not e.credits
            for k, r in enumerate(e.responses)
        ]
        return sorted(pairs), sorted(imitated), sorted(credited), dropped

    expected = outcome(np.arange(5))
    assert any(expected[:3])
    assert all(outcome(np.random.default_rng(seed).permutation(5)) == expected for seed in range(20))


def test_best_and_worst_with_a_gap():
    group = group_of([0.0, 3.0, 1.0, np.nan])
    (example,), _ = formed(group, rule="best_worst", gap=2.0)
    assert chosen_and_rejected(example) == [[11, 11], [10]]
    assert len(example.responses) == 2, "others are not in the example"
    assert formed(group, rule="best_worst", gap=3.5) == ([], Counter({"small_gap": 1}))
    assert formed(group_of([1.0, np.nan]), rule="best_worst") == ([], Counter({"not_judged": 1}))


def test_the_shortest_of_the_nearly_best():
    """Lengths 1, 2, 3, 4: with a tolerance of 0.3 the scores 9 and 8 are nearly as good as 10."""
    group = group_of([0.0, 8.0, 9.0, 10.0])
    (example,), _ = formed(group, rule="short_best", tolerance=0.3)
    assert chosen_and_rejected(example) == [[11, 11], [10]]
    (strict,), _ = formed(group, rule="short_best", tolerance=0.05)
    assert chosen_and_rejected(strict)[0] == [13] * 4


def test_all_pairs_are_one_example_with_every_comparison():
    (example,), _ = formed(group_of([0.0, 1.0, 3.0]), rule="all_pairs")
    found = {(one.chosen, one.rejected): one.preference for one in example.comparisons}
    assert found == {
        (1, 0): pytest.approx(sigmoid(1)),
        (2, 0): pytest.approx(sigmoid(3)),
        (2, 1): pytest.approx(sigmoid(2)),
    }
    (some,), _ = formed(group_of([1.0, 1.0, 3.0]), rule="all_pairs")
    assert len(some.comparisons) == 2, "the tie is left out"


def test_random_pairs_depend_on_the_seed_alone():
    group = group_of(np.arange(8.0))
    chosen = {seed: formed(group, rule="random_pairs", num_pairs=2, seed=seed)[0][0] for seed in range(8)}
    assert all(len(example.comparisons) == 2 for example in chosen.values())
    pairs = {tuple(sorted(tuple(r.token_ids.tolist()) for r in example.responses)) for example in chosen.values()}
    assert len(pairs) > 4


def test_the_margin_is_an_offset_of_the_better_response():
    (example,), _ = formed(group_of([0.0, 1.5]), margin=2.0)
    assert example.comparisons[0].offset == 3.0
    unknown = group_of([np.nan, np.nan], preference=[[0.5, 0.2], [0.8, 0.5]])
    assert formed(unknown, margin=2.0) == ([], Counter({"not_scored": 1}))


def test_a_judge_that_compares_needs_no_scores():
    p = np.array([[0.5, 0.9, np.nan], [0.1, 0.5, 0.3], [np.nan, 0.7, 0.5]])
    (example,), _ = formed(group_of([np.nan] * 3, preference=p), rule="all_pairs")
    assert {(c.chosen, c.rejected, c.preference) for c in example.comparisons} == {(0, 1, 0.9), (2, 1, 0.7)}
    assert example.scores == ()


def test_data_against_the_policy():
    group = group_of([np.nan, np.nan], who=["policy", "data"])
    (example,), _ = formed(group, rule="versus_data")
    assert chosen_and_rejected(example) == [[11, 11], [10]]
    assert example.comparisons[0].preference == 1.0
    alone = group_of([np.nan], who=["policy"])
    assert formed(alone, rule="versus_data") == ([], Counter({"missing_sample": 1}))
    same = group_of([np.nan, np.nan], who=["policy", "data"], tokens=[[5], [5]])
    assert formed(same, rule="versus_data") == ([], Counter({"same_tokens": 1}))


def test_demonstrations_of_one_prompt():
    group = group_of([0.0, 1.0, 1.0, 0.2], tokens=[[1], [2], [2], [3]])
    (best,), _ = formed(group, rule="best")
    assert best.responses[0].token_ids.tolist() == [2]
    correct, _ = formed(group, rule="correct")
    assert [one.responses[0].token_ids.tolist() for one in correct] == [[2]], "equal answers are one"
    assert formed(group, rule="correct", threshold=2.0) == ([], Counter({"none_correct": 1}))


def test_the_top_of_a_round_is_over_all_prompts():
    groups = [group_of([5.0, 4.0], prompt="easy"), group_of([1.0, 0.0], prompt="hard")]
    examples, dropped = formed(groups, rule="top", share=0.5)
    assert [example.id.split("/")[0] for example in examples] == ["easy", "easy"]
    assert dropped == Counter({"not_in_top": 1})


def test_settings_that_a_rule_does_not_read_are_refused():
    with raises(ConfigError, "no_effect", key="examples.gap"):
        ExampleSettings(rule="best", gap=1.0)
    with raises(ConfigError, "unknown_name", key="examples.rule"):
        ExampleSettings(rule="best_wrost")
    with raises(ConfigError, "out_of_range", key="examples.share"):
        ExampleSettings(rule="top", share=0.0)
