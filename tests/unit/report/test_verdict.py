"""The verdict: every outcome, and the cautions that limit it."""

import math
import re
from dataclasses import replace

import pytest

from support.made_up_reports import change, contrast, gold, held_out, interval, probability, samples, whole
from tiltlm.diagnostics import Interval
from tiltlm.report import RunReport, series_of, verdict_of
from tiltlm.report.verdict import direction


def over_trained():
    """Return records in which the training loss falls, and the held-out loss rises after step 3."""
    return [{"step": k, "loss": 1 / (1 + k), "eval_loss": 0.5 + 0.1 * abs(k - 3)} for k in range(8)]


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
        (change(0.5, 0.7), change(0, 0.4), "better", "Yes"),
        (change(0.5, 0.52), change(0, 0.4), "unclear", "Partly"),
        (change(0.5, 0.7), change(0, 0.05), "unclear", "Partly"),
        (change(0.5, 0.52), change(0, 0.05), "unclear", "No clear difference"),
        (change(0.7, 0.5), change(0, 0.4), "worse", "No, it does worse"),
    ],
)
def test_held_out_pairs(accuracy, margin, outcome, word):
    """The effect size is the label loss, or the margin where rewards are no log-odds."""
    found = verdict(held_out=held_out(contrast(accuracy, margin, label_loss=None)))
    assert (found.outcome, found.word) == (outcome, word)
    loss = change(0.693, 0.693 - margin.after.estimate, 0.1)
    by_loss = verdict(held_out=held_out(contrast(accuracy, change(0, 0.4), label_loss=loss)))
    assert (by_loss.outcome, by_loss.word) == (outcome, word)


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


def test_held_out_rows_of_one_label_are_not_called_missing():
    """The way out of no held-out rows would change nothing where rows are held out already."""
    absent, alike = verdict().sentence, verdict(held_out=held_out(num_examples=20)).sentence
    assert "data.eval_fraction=0.1" in absent
    assert "data.eval_fraction=0.1" not in alike
    assert "20 held-out rows" in alike


def test_a_good_run_has_no_cautions():
    assert verdict_of(whole()).cautions == ()


@pytest.mark.parametrize(
    ("parts", "key", "seen"),
    [
        ({"held_out": held_out(contrast(better=change(-2.0, -2.3)))}, "displaced", "30.0 % of prompts"),
        ({"held_out": held_out(contrast(length_advantage=interval(0.05)))}, "length_rule", "longer"),
        ({"held_out": held_out(contrast(ties=0.2))}, "ties", "20.0 %"),
        ({"held_out": held_out(contrast(label_loss=change(0.69, 0.9, 0.05)))}, "overconfident", "0.9"),
        ({"held_out": held_out(contrast(), num_prompts=12)}, "few_prompts", "12"),
        ({"samples": samples(kl=25.0)}, "large_kl", "25.0"),
        ({"samples": samples(cut_share=0.5)}, "cut", "64"),
        ({"samples": samples(length=40.0)}, "length_changed", "longer"),
        ({"samples": samples(length=10.0)}, "length_changed", "shorter"),
        ({"probability": probability(heaviest_tenth=0.7)}, "few_pairs_weigh", "70.0 %"),
        ({"series": series_of(over_trained())}, "over_trained", "lowest at step 3"),
        ({"gold": gold(policy=4.0, attainable=3.2)}, "above_frontier", ""),
        ({"gold": gold(effective_samples=20.0)}, "few_effective_samples", "20"),
    ],
)
def test_each_caution(parts, key, seen):
    (caution,) = verdict_of(replace(whole(), **parts)).cautions
    assert caution.key == key
    assert seen in caution.text.replace("\N{NO-BREAK SPACE}", " ")
    if "gold" not in parts:
        remedy = r"\b(data|training|evaluation|model)\.\w+|dpo_nll|length_dpo|robust_dpo|learning rate"
        assert re.search(remedy, caution.text), "it says what to do"


def test_squeezing_is_said_beside_displacement():
    fell = held_out(contrast(better=change(-2.0, -2.3)))
    found = verdict_of(replace(whole(), held_out=fell, probability=probability(top_token=0.4))).cautions
    assert [caution.key for caution in found] == ["displaced", "squeezed"]
    assert "dpo_nll" in found[1].text


def test_a_held_out_loss_that_rises_with_the_training_loss_is_no_over_training():
    records = [{"step": k, "loss": 1 + k, "eval_loss": 0.5 + abs(k - 2)} for k in range(6)]
    assert verdict_of(replace(whole(), series=series_of(records))).cautions == ()


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
    unknown = {"label_loss": replace(change(0.7, 0.5), difference=nan)}
    one = held_out(contrast(*(replace(change(a, b), difference=nan) for a, b in ((0.5, 0.9), (0, 1))), **unknown))
    assert verdict(held_out=one).outcome == "unclear"


@pytest.mark.parametrize(
    ("shift", "kl", "margin", "is_still"),
    [
        (interval(3e-5, 1e-5), samples(kl=1e-5), change(0, 0.4), True),
        (interval(0.09, 0.02), None, change(0, 0.4), True),
        (interval(4.0), samples(kl=0.05), change(0, 0.05), True),  # both intervals reach 0
        (interval(4.0), samples(kl=1.5), change(0, 0.05), False),
        (interval(4.0), samples(kl=0.05), change(0, 0.4), False),
        (interval(4.0), None, change(0, 0.05), False),
        (None, None, change(0, 0.4), False),  # a reward model
    ],
)
def test_a_policy_that_hardly_moved_has_not_learned(shift, kl, margin, is_still):
    """At a learning rate of 1e-8 a log-ratio reward ranked 77 % of pairs right, with a KL of 0.000009."""
    found = verdict(held_out=held_out(contrast(change(0.5, 0.77, 0.05), margin), shift=shift), samples=kl)
    assert (found.word == "It hardly moved") == is_still
    if is_still:
        assert found.outcome == found.colour == "unclear"
        assert "training.learning_rate" in found.sentence
        assert ("only" in found.sentence) == (shift.estimate < 0.1), "a large change is not called a small one"
    assert verdict(held_out=held_out(nll=change(2.0, 1.99, 0.001), shift=interval(0.01, 0.001))).outcome == "unclear"


def test_a_small_gain_is_called_small():
    little = held_out(contrast(label_loss=change(0.693, 0.691, 0.001)))
    assert verdict(held_out=little).word == "Yes, a little"
    assert verdict(held_out=held_out(contrast(label_loss=None))).word == "Yes"
    assert "0.693" in verdict(held_out=held_out(contrast())).sentence


def test_cautions_change_the_colour_of_a_good_verdict_only():
    assert verdict(held_out=held_out(contrast())).colour == "better"
    sure = held_out(contrast(ties=0.2))
    assert verdict(held_out=sure).colour == "cautious"
    assert verdict(held_out=held_out(contrast(change(0.7, 0.5), label_loss=change(0.6, 0.9, 0.05)))).colour == "worse"


def test_the_question_says_what_was_measured():
    questions = {verdict_of(r).question for r in (whole(), RunReport("x", held_out=held_out(contrast())),
                 RunReport("x", held_out=held_out(nll=change(2.0, 1.5))), RunReport("x"))}  # fmt: skip
    assert len(questions) == 4
