"""The verdict: every outcome, and the cautions that limit it."""

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
    assert "50 %" in verdict(held_out=held_out(contrast())).sentence
    free = held_out(contrast(change(0.58, 0.7, 0.05), change(0.1, 0.4)), starts_at_reference=False)
    sentence = verdict(held_out=free).sentence.replace("\N{NO-BREAK SPACE}", " ")
    for number in ("70 % (65 to 75)", "58 %", "0.40 (0.30 to 0.50)", "0.10"):
        assert number in sentence, number


def test_unpaired_responses_have_names_of_their_own():
    labels = contrast(kind="unpaired", seq_accuracy=None, mean_accuracy=None, displacement=None)
    sentence = verdict(held_out=held_out(labels)).sentence.replace("\N{NO-BREAK SPACE}", " ")
    for text in ("desirable", "undesirable", "70 %"):
        assert text in sentence, text


def test_demonstrations_go_by_likelihood():
    assert verdict(held_out=held_out(nll=change(2.0, 1.5))).outcome == "better"
    assert verdict(held_out=held_out(nll=change(1.5, 2.0))).outcome == "worse"
    assert verdict(held_out=held_out(contrast(), nll=change(1.5, 1.51))).outcome == "unclear"


def test_a_gold_reward_overrides_held_out_data():
    found = verdict_of(whole(gold=gold(gain=-1.0)))
    assert found.outcome == "worse"
    assert verdict_of(whole()).outcome == "better"
    assert "80 % (70 to 90)" in verdict_of(whole()).sentence.replace("\N{NO-BREAK SPACE}", " ")


def test_without_a_measurement_the_verdict_names_the_setting_to_change():
    for parts in ({}, {"held_out": held_out()}, {"samples": samples()}):
        found = verdict(**parts)
        assert found.outcome == "unmeasured"
        assert "data.eval_fraction" in found.sentence


def test_a_good_run_has_no_cautions():
    assert verdict_of(whole()).cautions == ()


@pytest.mark.parametrize(
    ("parts", "key", "seen"),
    [
        ({"held_out": held_out(contrast(better=change(-2.0, -2.3)))}, "displaced", "30.0 % of prompts"),
        ({"held_out": held_out(contrast(length_advantage=interval(0.05)))}, "length_rule", "longer"),
        ({"held_out": held_out(contrast(ties=0.2))}, "ties", "20.0 %"),
        ({"held_out": held_out(contrast(), num_prompts=12)}, "few_prompts", "12"),
        ({"samples": samples(kl=25.0)}, "large_kl", "25.0"),
        ({"samples": samples(cut_share=0.5)}, "cut", "64"),
        ({"samples": samples(length=40.0)}, "length_changed", "longer"),
        ({"samples": samples(length=10.0)}, "length_changed", "shorter"),
        ({"gold": gold(policy=4.0, attainable=3.2)}, "above_frontier", ""),
        ({"gold": gold(effective_samples=20.0)}, "few_effective_samples", "20"),
    ],
)
def test_each_caution(parts, key, seen):
    (caution,) = verdict_of(replace(whole(), **parts)).cautions
    assert caution.key == key
    assert seen in caution.text.replace("\N{NO-BREAK SPACE}", " ")


def test_displacement_of_labels_has_no_share_of_prompts():
    labels = contrast(
        kind="unpaired", better=change(-2.0, -2.3), seq_accuracy=None, mean_accuracy=None, displacement=None
    )
    (caution,) = verdict(held_out=held_out(labels)).cautions
    assert caution.key == "displaced"
    assert "desirable" in caution.text
    assert "%" not in caution.text


def test_an_unknown_interval_is_no_success():
    nan = Interval(0.9, math.nan, math.nan, 0.95, 1)
    one = held_out(contrast(replace(change(0.5, 0.9), difference=nan), replace(change(0, 1), difference=nan)))
    assert verdict(held_out=one).outcome == "unclear"
