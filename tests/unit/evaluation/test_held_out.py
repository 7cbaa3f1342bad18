"""The numbers of a verdict on tables small enough to work out by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from support.errors import raises
from support.tables_by_hand import pair, response, rewarded, unpaired
from tiltlm.core import Comparison, ConfigError, Example, Response, token_ids
from tiltlm.diagnostics import LengthRule
from tiltlm.evaluation import ExampleRow, compare_held_out, fit_length_rule

LONGER, SHORTER = LengthRule("longer"), LengthRule("shorter")


def contrast_of(before, after, rule=LONGER, **settings):
    found = compare_held_out(before, after, rule, **settings).contrast
    assert found is not None
    return found


def test_accuracy_counts_a_tie_as_half():
    after = rewarded((2.0, 1.0), (1.0, 1.0), (0.0, 3.0), (1.0, 0.0))
    found = contrast_of(after, after)
    assert found.accuracy.after.estimate == pytest.approx((1 + 0.5 + 0 + 1) / 4)
    assert found.ties == pytest.approx(1 / 4)
    assert found.margin.after.estimate == pytest.approx((1 + 0 - 3 + 1) / 4)
    assert found.num_comparisons == 4


def test_before_after_and_difference():
    before, after = rewarded((0.0, 1.0), (1.0, 0.0)), rewarded((3.0, 1.0), (2.0, 0.0))
    found = contrast_of(before, after)
    assert (found.accuracy.before.estimate, found.accuracy.after.estimate) == (0.5, 1.0)
    assert found.margin.difference.estimate == pytest.approx(2.0)
    assert found.accuracy.difference.estimate == pytest.approx(0.5)
    assert (found.accuracy.difference.low, found.accuracy.difference.high) == (0.0, 1.0)


def test_rows_of_one_prompt_share_its_vote():
    rows = [
        pair("a", response(1.0), response(0.0), prompt="p"),
        pair("b", response(1.0), response(0.0), prompt="p"),
        pair("c", response(0.0), response(1.0), prompt="q"),
    ]
    held_out = compare_held_out(rows, rows, LONGER)
    assert (held_out.num_examples, held_out.num_prompts) == (3, 2)
    assert held_out.contrast.accuracy.after.estimate == pytest.approx(0.5)
    assert held_out.contrast.accuracy.after.n == 2


def test_soft_labels_expect_agreement():
    """p = ¾ and the policy prefers the chosen one: agreement ¾. A comparison labelled as a tie has no better side."""
    rows = [
        pair("a", response(1.0), response(0.0), preference=0.75),
        pair("b", response(1.0), response(0.0), preference=0.5),
        pair("c", response(0.0), response(3.0), preference=1.0),
    ]
    found = contrast_of(rows, rows)
    assert found.accuracy.after.estimate == pytest.approx((0.75 + 0) / 2)
    assert found.margin.after.estimate == pytest.approx((1 - 3) / 2)
    assert (found.num_comparisons, found.num_label_ties) == (2, 1)


def test_the_label_loss_is_the_likelihood_of_bradley_terry():
    """Margins 1 (p = ¾), 1 (p = ½) and −3 (p = 1); a rule of labels alone costs log 2 before training."""
    rows = [
        pair("a", response(1.0), response(0.0), preference=0.75),
        pair("b", response(1.0), response(0.0), preference=0.5),
        pair("c", response(0.0), response(3.0)),
    ]
    found = contrast_of(rows, rows, starts_at_reference=True).label_loss
    log_share = [math.log(1 / (1 + math.exp(-m))) for m in (1, -1, -3)]
    by_hand = -(0.75 * log_share[0] + 0.25 * log_share[1]) - (log_share[0] + log_share[1]) / 2 - log_share[2]
    assert found.after.estimate == pytest.approx(by_hand / 3)
    assert found.before.estimate == pytest.approx(math.log(2))
    assert contrast_of(rows, rows, log_odds=False).label_loss is None


def test_only_ties_say_nothing():
    rows = [pair("a", response(1.0), response(0.0), preference=0.5)]
    assert compare_held_out(rows, rows, LONGER).contrast is None


def test_the_shift_has_no_sign():
    before = [pair("a", response(0, -8, 4), response(0, -9, 3)), pair("b", response(0, -2, 1), response(0, -4, 2))]
    after = [pair("a", response(0, -12, 4), response(0, -5, 3)), pair("b", response(0, -2, 1), response(0, -4, 2))]
    assert compare_held_out(before, after, LONGER).shift.estimate == pytest.approx((4 + 0) / 2)


def test_a_policy_that_starts_at_its_reference_has_margin_zero_whatever_rounding_left():
    before, after = rewarded((1e-7, 0.0), (2e-7, 0.0)), rewarded((1.0, 0.0), (2.0, 0.0))
    found = contrast_of(before, after, starts_at_reference=True)
    assert (found.accuracy.before.estimate, found.margin.before.estimate) == (0.5, 0.0)
    assert contrast_of(before, after).accuracy.before.estimate == 1.0


def test_log_probabilities_per_token_and_displacement():
    before = [pair("a", response(0, -8, 4), response(0, -9, 3)), pair("b", response(0, -2, 1), response(0, -4, 2))]
    after = [pair("a", response(0, -12, 4), response(0, -15, 3)), pair("b", response(0, -3, 1), response(0, -8, 2))]
    found = contrast_of(before, after)
    assert found.better.before.estimate == pytest.approx(-2.0)
    assert found.better.after.estimate == pytest.approx(-3.0)
    assert found.worse.difference.estimate == pytest.approx(((-15 + 9) / 3 + (-8 + 4) / 2) / 2)
    assert found.is_displaced
    assert (found.displacement.chosen.estimate, found.displacement.rejected.estimate) == (-2.5, -5.0)
    assert found.displacement.share_chosen_fell.estimate == 1.0
    assert not contrast_of(after, before).is_displaced


def test_likelihood_ranks_by_sum_and_by_mean():
    """The chosen one is less likely as a whole, and likelier per token."""
    rows = [pair(str(i), response(0, -8, 8), response(0, -3, 2)) for i in range(2)]
    found = contrast_of(rows, rows)
    assert found.seq_accuracy.after.estimate == 0
    assert found.mean_accuracy.after.estimate == 1


def test_the_length_rule_beside_the_policy():
    rows = [
        pair("a", response(1, -1, 5), response(0, -1, 2)),
        pair("b", response(1, -1, 2), response(0, -1, 5)),
        pair("c", response(1, -1, 3), response(0, -1, 3)),
        pair("d", response(1, -1, 9), response(0, -1, 3)),
    ]
    found = contrast_of(rows, rows)
    assert found.length_rule == "longer"
    assert found.length_accuracy.estimate == pytest.approx((1 + 0 + 0.5 + 1) / 4)
    assert found.length_advantage.estimate == pytest.approx(1 - 2.5 / 4)
    assert contrast_of(rows, rows, SHORTER).length_accuracy.estimate == pytest.approx(1.5 / 4)


def test_several_comparisons_of_a_list():
    row = ExampleRow(
        "a", "a", tuple(response(r) for r in (3.0, 2.0, 1.0)), (Comparison(0, 1), Comparison(1, 2), Comparison(2, 0))
    )
    found = contrast_of([row], [row])
    assert found.num_comparisons == 3
    assert found.accuracy.after.estimate == pytest.approx(2 / 3)


def test_labels_across_prompts_are_ranked_by_chance():
    after = unpaired([3.0, 1.0, 1.0, 0.0], [True, True, False, False])
    found = contrast_of(unpaired([0.0] * 4, [True, True, False, False]), after)
    assert found.kind == "unpaired"
    assert found.accuracy.after.estimate == pytest.approx(3.5 / 4)
    assert found.accuracy.before.estimate == pytest.approx(0.5)
    assert found.margin.after.estimate == pytest.approx(2.0 - 0.5)
    assert (found.num_comparisons, found.ties) == (4, 0.25)
    assert found.seq_accuracy is None


def test_labels_length_rule_and_per_token():
    rows = [
        ExampleRow(str(i), str(i), (response(reward, logps, tokens),), (), (label,))
        for i, (reward, logps, tokens, label) in enumerate([(1, -4, 4, True), (0, -9, 3, False), (2, -4, 2, True)])
    ]
    found = contrast_of(rows, rows, SHORTER)
    assert found.better.after.estimate == pytest.approx((-1 - 2) / 2)
    assert found.worse.after.estimate == pytest.approx(-3.0)
    assert found.length_accuracy.estimate == pytest.approx(0.5)  # 2 < 3, but 4 > 3
    assert found.length_advantage.estimate == pytest.approx(0.5)


def test_two_labels_in_one_row_are_a_comparison():
    row = ExampleRow("a", "a", (response(0.0), response(1.0)), (), (False, True))
    found = contrast_of([row], [row])
    assert found.kind == "pairs"
    assert found.accuracy.after.estimate == 1


@pytest.mark.parametrize("labels", [(), (True,)])
def test_without_comparisons_and_opposite_labels_there_is_no_contrast(labels):
    rows = [ExampleRow("a", "a", (response(0.0),), (), labels), ExampleRow("b", "b", (response(1.0),), (), labels)]
    assert compare_held_out(rows, rows, LONGER).contrast is None


def test_nll_counts_tokens_alike_and_leaves_rejected_responses_out():
    before = [ExampleRow("a", "a", (response(0, -6, 2),)), pair("b", response(0, -2, 4), response(0, -50, 1))]
    after = [ExampleRow("a", "a", (response(0, -3, 2),)), pair("b", response(0, -3, 4), response(0, -99, 1))]
    found = compare_held_out(before, after, LONGER, imitates=True).nll
    assert found.before.estimate == pytest.approx(8 / 6)
    assert found.after.estimate == pytest.approx(6 / 6)
    assert compare_held_out(before, after, LONGER).nll is None


def test_rows_without_a_comparison_do_not_shift_the_others():
    rows = [ExampleRow("a", "z", (response(0.0),)), *rewarded((1.0, 0.0), (0.0, 1.0))]
    found = contrast_of(rows, rows)
    assert found.accuracy.after.n == 2
    assert found.accuracy.after.estimate == 0.5


def test_tables_of_other_rows_are_refused():
    rows = rewarded((1.0, 0.0), (0.0, 1.0))
    with raises(ConfigError, "other_rows", mentions=["2"]):
        compare_held_out(rows, rows[::-1], LONGER)
    with raises(ConfigError, "other_rows", mentions=["2", "0"]):
        compare_held_out(rows, [], LONGER)


def test_without_held_out_rows_nothing_is_compared():
    with raises(ConfigError, "empty", key="after", mentions=["data.eval_fraction"]):
        compare_held_out([], [], LONGER)


def test_intervals_can_be_repeated():
    rows = rewarded(*((np.sin(i), 0.1) for i in range(30)))
    assert contrast_of(rows, rows, seed=1) == contrast_of(rows, rows, seed=1)
    assert contrast_of(rows, rows, seed=1) != contrast_of(rows, rows, seed=2)


def example(lengths, **known) -> Example:
    responses = tuple(Response(token_ids(range(n))) for n in lengths)
    return Example("e", token_ids([1]), responses, **known)


def test_the_length_rule_is_fitted_on_comparisons():
    short = [example((2, 5), comparisons=(Comparison(0, 1),)), example((1, 7), comparisons=(Comparison(0, 1),))]
    long = [example((2, 5), comparisons=(Comparison(1, 0),))]
    assert fit_length_rule(short + long).prefers == "shorter"
    assert fit_length_rule(long).prefers == "longer"


def test_the_length_rule_is_fitted_on_labels():
    rows = [example((2,), labels=(True,)), example((4,), labels=(True,)), example((9,), labels=(False,))]
    assert fit_length_rule(rows).prefers == "shorter"
    assert fit_length_rule([replace(row, labels=(not row.labels[0],)) for row in rows]).prefers == "longer"


def test_without_any_preference_the_rule_is_a_convention():
    assert fit_length_rule([example((3,))]).prefers == "longer"


def test_single_labels_of_one_prompt_are_compared_within_it():
    """Rewards are known up to a constant of the prompt: 1 ≻ 0 and 11 ≻ 10 are right twice, across prompts only half."""
    rows = unpaired([11.0, 10.0, 1.0, 0.0], [True, False, True, False])
    after = [replace(row, prompt="pq"[i // 2]) for i, row in enumerate(rows)]
    found = contrast_of(after, after)
    assert (found.kind, found.num_comparisons) == ("pairs", 2)
    assert found.accuracy.after.estimate == 1.0
    assert contrast_of(rows, rows).kind == "unpaired"
    assert contrast_of(rows, rows).accuracy.after.estimate == 0.75


def test_labels_compare_across_prompts_where_most_have_no_counterpart():
    rows = unpaired([1.0, 0.0, 3.0, 2.0, 5.0, 4.0], [True, False, True, True, False, False])
    rows = [replace(row, prompt="p") if i < 2 else row for i, row in enumerate(rows)]
    assert contrast_of(rows, rows).kind == "unpaired"


def test_numbers_of_each_source():
    before = [replace(row, source="ab"[i > 1]) for i, row in enumerate(rewarded((0, 1), (1, 0), (0, 1), (0, 1)))]
    after = [replace(row, source="ab"[i > 1]) for i, row in enumerate(rewarded((2, 1), (3, 0), (0, 1), (1, 0)))]
    found = compare_held_out(before, after, LONGER).by_source
    assert list(found) == ["a", "b"]
    assert [source.num_examples for source in found.values()] == [2, 2]
    assert [source.accuracy.after.estimate for source in found.values()] == [1.0, 0.5]
    assert [source.accuracy.difference.estimate for source in found.values()] == [0.5, 0.5]
    assert [source.margin.after.estimate for source in found.values()] == [2.0, 0.0]
    assert all(source.nll is None for source in found.values())


@pytest.mark.parametrize("num_sources", [1, 21])
def test_one_source_or_very_many_are_not_divided(num_sources):
    rows = [replace(row, source=str(i % num_sources)) for i, row in enumerate(rewarded(*[(1, 0)] * 42))]
    assert compare_held_out(rows, rows, LONGER).by_source == {}


def test_a_source_without_comparisons_has_no_accuracy():
    rows = rewarded((1, 0), (0, 1))
    tie = pair("tie", response(1.0), response(0.0), preference=0.5)
    rows = [replace(row, source="a") for row in rows] + [tie]
    found = compare_held_out(rows, rows, LONGER).by_source
    assert found["(none)"].accuracy is None
    assert found["(none)"].num_examples == 1
    assert found["a"].accuracy is not None
