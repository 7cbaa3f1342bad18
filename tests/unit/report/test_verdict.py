"""The headline: every outcome, and what is said against it."""

import math
from dataclasses import replace

import pytest

from support.made_up_reports import change, contrast, gold, held_out, interval, samples, whole
from tiltlm.diagnostics import Interval
from tiltlm.report import RunReport, verdict_of
from tiltlm.report.verdict import direction


def verdict(**parts):
    return verdict_of(RunReport("a run", **parts))


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [(0.1, 0.3, "better"), (-0.3, -0.1, "worse"), (-0.1, 0.3, "unclear"), (0.0, 0.2, "unclear"),
     (math.nan, math.nan, "unclear")],
)  # fmt: skip
def test_direction(low, high, outcome):
    found = Interval((low + high) / 2, low, high, 0.95, 10)
    assert direction(found) == outcome
    flipped = {"better": "worse", "worse": "better"}.get(outcome, outcome)
    assert direction(found, less_is_better=True) == flipped


@pytest.mark.parametrize(
    ("accuracy", "margin", "outcome", "word"),
    [
        (change(0.5, 0.7), change(0, 0.4), "better", "Yes, it helped"),
        (change(0.5, 0.52), change(0, 0.4), "unclear", "Partly"),
        (change(0.5, 0.7), change(0, 0.05), "unclear", "Partly"),
        (change(0.5, 0.52), change(0, 0.05), "unclear", "No clear difference"),
        (change(0.7, 0.5), change(0, 0.4), "worse", "No, it did harm"),
    ],
)
def test_held_out_pairs(accuracy, margin, outcome, word):
    found = verdict(held_out=held_out(contrast(accuracy, margin)))
    assert (found.outcome, found.word) == (outcome, word)


def test_the_sentence_names_both_policies():
    assert "the untrained policy in 50 % by definition" in verdict(held_out=held_out(contrast())).sentence
    free = held_out(contrast(change(0.58, 0.7, 0.05), change(0.1, 0.4)), starts_at_reference=False)
    sentence = verdict(held_out=free).sentence.replace("\N{NO-BREAK SPACE}", " ")
    assert "in 70 % (65 to 75) of comparisons, the untrained policy in 58 %" in sentence
    assert "the mean margin is 0.40 (0.30 to 0.50) (untrained 0.10)" in sentence


def test_labels_are_told_as_chances():
    labels = contrast(kind="unpaired", seq_accuracy=None, mean_accuracy=None, displacement=None)
    sentence = verdict(held_out=held_out(labels)).sentence.replace("\N{NO-BREAK SPACE}", " ")
    assert "gives a desirable response more reward than an undesirable one with probability 70 %" in sentence


def test_demonstrations_go_by_likelihood():
    assert verdict(held_out=held_out(nll=change(2.0, 1.5))).outcome == "better"
    assert verdict(held_out=held_out(nll=change(1.5, 2.0))).outcome == "worse"
    assert verdict(held_out=held_out(contrast(), nll=change(1.5, 1.51))).outcome == "unclear"


def test_a_gold_reward_goes_before_held_out_data():
    found = verdict_of(whole(gold=gold(gain=-1.0)))
    assert found.outcome == "worse"
    assert verdict_of(whole()).outcome == "better"
    assert "80 % (70 to 90) of the gain attainable" in verdict_of(whole()).sentence.replace("\N{NO-BREAK SPACE}", " ")


def test_nothing_measured_is_said_with_a_way_out():
    for parts in ({}, {"held_out": held_out()}, {"samples": samples()}):
        found = verdict(**parts)
        assert found.outcome == "unmeasured"
        assert "data.eval_fraction" in found.sentence


def test_a_good_run_has_nothing_said_against_it():
    assert verdict_of(whole()).cautions == ()


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"held_out": held_out(contrast(better=change(-2.0, -2.3)))}, "Displacement: the chosen responses themselves"),
        ({"held_out": held_out(contrast(length_advantage=interval(0.05)))}, "only prefers the longer response"),
        ({"held_out": held_out(contrast(ties=0.2))}, "are ties"),
        ({"held_out": held_out(contrast(), num_prompts=12)}, "Only 12 held-out prompts"),
        ({"samples": samples(kl=25.0)}, "moved far"),
        ({"samples": samples(cut_share=0.5)}, "were cut at 64 tokens"),
        ({"samples": samples(length=40.0)}, "became longer"),
        ({"samples": samples(length=10.0)}, "became shorter"),
        ({"gold": gold(policy=4.0, attainable=3.2)}, "above the frontier"),
        ({"gold": gold(effective_samples=20.0)}, "worth only 20 draws"),
    ],
)
def test_each_caution(parts, said):
    (caution,) = verdict_of(replace(whole(), **parts)).cautions
    assert said in caution


def test_displacement_of_labels_has_no_share_of_prompts():
    labels = contrast(
        kind="unpaired", better=change(-2.0, -2.3), seq_accuracy=None, mean_accuracy=None, displacement=None
    )
    (caution,) = verdict(held_out=held_out(labels)).cautions
    assert "the desirable responses" in caution
    assert "of prompts)" not in caution


def test_an_unknown_interval_is_no_success():
    nan = Interval(0.9, math.nan, math.nan, 0.95, 1)
    one = held_out(contrast(replace(change(0.5, 0.9), difference=nan), replace(change(0, 1), difference=nan)))
    assert verdict(held_out=one).outcome == "unclear"
