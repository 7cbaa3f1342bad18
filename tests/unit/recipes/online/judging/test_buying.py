"""Which labels are bought: by hand, by hash and never by place."""

from dataclasses import replace

import numpy as np
import pytest

from support.errors import raises
from support.online import group_of
from tiltlm.core import ConfigError
from tiltlm.online.cards import agreement_of
from tiltlm.online.loop_settings import LearnedJudgeSettings
from tiltlm.recipes.online.judging.buying import agreement, candidates, choose_pairs

GAPS = {"a": 0.5, "b": -0.1, "c": 2.0, "d": 0.2}


def groups_with(gaps: dict[str, float]):
    return [group_of([gap, 0.0], prompt=name) for name, gap in gaps.items()]


def chosen(groups, number, choose="closest", seed=0) -> list[str]:
    return [groups[pair.group].id for pair in choose_pairs(groups, number, choose, seed)]


def test_the_closest_pairs_are_bought_whichever_sample_scores_higher():
    groups = groups_with(GAPS)
    assert chosen(groups, 2) == ["b", "d"]
    assert chosen(groups, 3) == ["a", "b", "d"]
    assert chosen(groups, 9) == ["a", "b", "c", "d"], "all there are"
    assert [pair.gap for pair in choose_pairs(groups, 2, "closest", 0)] == pytest.approx([0.1, 0.2])


def test_of_several_samples_every_two_are_candidates():
    pairs = choose_pairs([group_of([0.0, 1.0, 1.25, 4.0])], 2, "closest", 0)
    assert [(pair.i, pair.j) for pair in pairs] == [(0, 1), (1, 2)]
    assert len(candidates([group_of([0.0, 1.0, 1.25, 4.0])])) == 6


@pytest.mark.parametrize("choose", ["closest", "random"])
def test_equal_pairs_are_ordered_by_hash_and_not_by_place(choose):
    names = [f"prompt {k}" for k in range(20)]
    groups = [group_of([1.0, 0.0], prompt=name) for name in names]
    found = chosen(groups, 5, choose)
    assert found != names[:5]
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(20)
        moved = [group_of([0.0, 1.0], prompt=names[k], places=[1, 0]) for k in order]
        assert sorted(chosen(moved, 5, choose)) == sorted(found)
    assert chosen(groups, 5, choose, seed=1) != found


def test_a_random_choice_does_not_read_the_scores():
    groups = groups_with({f"prompt {k}": float(k) for k in range(20)})
    other = groups_with({f"prompt {k}": float(20 - k) for k in range(20)})
    assert chosen(groups, 6, "random") == chosen(other, 6, "random")
    assert chosen(groups, 6, "random") != chosen(groups, 6, "closest")


def test_no_label_is_bought_for_equal_texts_or_without_a_score():
    """Two token sequences with one text have Δr = 0, so they would be the first to be bought."""
    same = group_of([1.0, 1.0], prompt="same")
    same = replace(same, samples=(same.samples[0], replace(same.samples[1], text=same.samples[0].text)))
    unscored = group_of([np.nan, 0.0], prompt="unscored")
    groups = [same, unscored, group_of([3.0, 0.0], prompt="far")]
    assert chosen(groups, 3) == ["far"]
    assert chosen(groups, 3, "random") == ["far"]


def test_agreement_is_of_signs_and_leaves_ties_out():
    cases = [(0.3, 0.9, True), (0.3, 0.2, False), (-1.0, 0.2, True), (0.0, 0.9, None), (2.0, 0.5, None)]
    assert [agreement(gap, p) for gap, p, _ in cases] == [right for _, _, right in cases]
    assert agreement(np.nan, 0.9) is None
    assert agreement(0.3, np.nan) is None
    assert agreement_of([True, None, False, True]).estimate == pytest.approx(2 / 3)
    assert agreement_of([None, None]) is None
    assert agreement_of([]) is None


@pytest.mark.parametrize(
    ("settings", "code", "key"),
    [
        ({"choose": "random"}, "no_effect", "learned_judge.choose"),
        ({"model": "folder"}, "no_effect", "learned_judge.model"),
        ({"earlier_rounds": 0}, "no_effect", "learned_judge.earlier_rounds"),
        ({"rate": 1e-4}, "no_effect", "learned_judge.rate"),
        ({"labels": -1}, "negative", "learned_judge.labels"),
        ({"labels": 4, "epochs": 0}, "not_positive", "learned_judge.epochs"),
        ({"labels": 4, "batch": 0}, "not_positive", "learned_judge.batch"),
        ({"labels": 4, "rate": 0.0}, "not_positive", "learned_judge.rate"),
        ({"labels": 4, "earlier_rounds": -1}, "negative", "learned_judge.earlier_rounds"),
    ],
)
def test_settings_without_effect_or_sense_are_refused(settings, code, key):
    with raises(ConfigError, code, key=key):
        LearnedJudgeSettings(**settings)
