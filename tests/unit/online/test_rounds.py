"""The folder of a round, and the prompts that each round takes."""

import numpy as np
import pytest

from support.errors import raises
from support.online import group_of
from tiltlm.core import RunError
from tiltlm.diagnostics import Interval
from tiltlm.online.cards import Card, kl_of, make_card, reward_of
from tiltlm.online.examples.rules import ExampleSettings, form_examples
from tiltlm.online.ledger import Tokens
from tiltlm.online.loop_settings import StopSettings
from tiltlm.online.rounds import RoundFolder, prompts_of_round, seed_of
from tiltlm.online.stopping import find_stop
from tiltlm.sampling.answers import AnswerRow


@pytest.mark.parametrize(("num_prompts", "per_round"), [(20, 8), (16, 8), (5, 5), (7, 1)])
def test_each_pass_takes_whole_rounds_of_distinct_prompts(num_prompts, per_round):
    rounds = num_prompts // per_round
    passes = [
        [k for r in range(rounds) for k in prompts_of_round(p * rounds + r, num_prompts, per_round, "data", 0)]
        for p in range(3)
    ]
    for own in passes:
        assert len(set(own)) == len(own) == rounds * per_round
        assert set(own) <= set(range(num_prompts))
    assert passes[0] != passes[1] or num_prompts == 1


def test_prompts_and_seeds_depend_on_all_that_is_given():
    base = prompts_of_round(0, 50, 50, "data", 0)
    assert prompts_of_round(0, 50, 50, "data", 0) == base
    assert prompts_of_round(0, 50, 50, "other", 0) != base
    assert prompts_of_round(0, 50, 50, "data", 1) != base
    assert len({seed_of(f"round {number}", seed) for number in range(20) for seed in range(5)}) == 100


def test_a_card_with_an_interval_over_one_prompt_is_read_as_it_was_written(tmp_path):
    folder, alone = RoundFolder.of(tmp_path, 0), Interval(1.0, float("nan"), float("nan"), 0.95, 1)
    folder.close(1, a_card(reward=alone, agreement=alone, labels=1, judge_diverged=False))
    read = RoundFolder.of(tmp_path, 0).card
    for interval in (read.reward, read.agreement):
        assert (interval.estimate, interval.n) == (1.0, 1)
        assert np.isnan([interval.low, interval.high]).all()
    assert (read.labels, read.judge_diverged) == (1, False)


def test_a_round_is_closed_only_at_its_end(tmp_path):
    folder = RoundFolder.of(tmp_path, 3)
    assert folder.path.name == "0003"
    assert (folder.start, folder.last_step, folder.card, folder.verdicts("train")) == (None, None, None, None)
    folder.write_verdicts([{"id": "p", "scores": [1.0, None]}], "train")
    assert folder.verdicts("train") == [{"id": "p", "scores": [1.0, None]}]
    assert folder.verdicts("held_out") is None
    folder.begin_training(12, 300, "abc")
    assert (folder.start, folder.last_step) == ((12, 300), None)
    card = a_card()
    folder.close(15, card)
    again = RoundFolder.of(tmp_path, 3)
    assert (again.start, again.last_step, again.card) == ((12, 300), 15, card)


def test_examples_are_written_by_the_ids_of_their_samples(tmp_path):
    groups = [group_of([0.0, 2.0], prompt="a"), group_of([1.0, 1.0], prompt="b")]
    formed = form_examples(groups, ExampleSettings())
    first = RoundFolder.of(tmp_path, 0).write_examples(groups, formed.examples)
    assert RoundFolder.of(tmp_path, 1).write_examples(groups, formed.examples) == first
    hard = form_examples(groups, ExampleSettings(soft=False))
    assert RoundFolder.of(tmp_path, 2).write_examples(groups, hard.examples) != first
    begun = RoundFolder.of(tmp_path, 0)
    begun.begin_training(0, 0, first)
    with raises(RunError, "other_examples", key="examples.rule"):
        begun.write_examples(groups, hard.examples)
    assert begun.write_examples(groups, formed.examples) == first, "and what was trained on is still there"
    (line,) = (tmp_path / "rounds" / "0000" / "examples.jsonl").read_text().splitlines()
    assert all(sample.id in line for sample in groups[0].samples)


def a_row(number=0, **changes):
    ids = (np.array([3, 4, 2]), np.array([3, 2]))
    values = {"temperature": 1.0, "logps": (-2.0, -1.0), "token_ids": ids, "ended": (True, False), **changes}
    return AnswerRow(f"p{number}", "question", ("one two", "one"), **values)


def a_card(number=0, **changes):
    rows = [a_row(0), a_row(1)]
    scores = {"p0": [0.0, 2.0], "p1": [1.0, np.nan]}
    card = make_card(
        number, rows, [-2.5, -1.5, -2.0, -1.0], scores=scores, held_out=None, num_examples=1, dropped={"tie": 1},
        statuses={"ok": 3, "error": 1}, num_steps=1, losses=[0.5, 0.7], tokens=Tokens(4, 10, 6, 20), num_weights=100,
        recomputes=False, cost=0.5,
    )  # fmt: skip
    return Card(**{**vars(card), **changes})


def test_the_numbers_of_a_card_by_hand():
    card = a_card()
    assert card.reward.estimate == pytest.approx((1.0 + 1.0) / 2), "the mean over prompts of the known scores"
    assert card.kl.estimate == pytest.approx((0.5 + 0.5 + 0 + 0) / 4)
    assert (card.num_tokens, card.cut, card.sampled_tokens, card.judgements) == (2.5, 0.5, 10, 4)
    assert card.loss == pytest.approx(0.6)
    assert card.flops == 100 * (2 * (4 + 10 + 6) + 6 * 20)
    assert Tokens(4, 10, 6, 20).flops(100, recomputes=True) == 100 * (2 * (4 + 10 + 6) + 8 * 20)
    assert Card.of(card.as_dict()) == card


def test_a_kl_needs_draws_of_the_policy_itself():
    assert kl_of([a_row(temperature=0.7)], [-1.0, -1.0]) is None
    assert kl_of([a_row(is_untruncated=False)], [-1.0, -1.0]) is None
    assert kl_of([a_row(logps=None)], [-1.0, -1.0]) is None
    assert reward_of({"p": [np.nan, np.nan]}) is None


def test_stop_rules():
    cards = [a_card(number) for number in range(3)]
    assert find_stop([], StopSettings()) is None
    assert find_stop(cards, StopSettings()) is None
    assert find_stop(cards, StopSettings(kl=0.3)) is None
    assert find_stop(cards, StopSettings(kl=0.2)).rule == "kl"
    assert find_stop(cards, StopSettings(sampled_tokens=30)).rule == "sampled_tokens"
    assert find_stop(cards, StopSettings(sampled_tokens=31)) is None
    assert find_stop(cards, StopSettings(judgements=12)).rule == "judgements"
    assert find_stop(cards, StopSettings(flops=48_001)) is None
    assert find_stop(cards, StopSettings(flops=48_000)).rule == "flops"
    assert find_stop(cards, StopSettings(cost=1.6)) is None
    assert find_stop(cards, StopSettings(cost=1.5)).rule == "cost"
    assert find_stop(cards, StopSettings(hours=1.0), 0.99) is None
    assert find_stop(cards, StopSettings(hours=1.0), 1.0).rule == "hours"
    assert find_stop(cards, StopSettings(no_signal=0.5)) is None
    assert find_stop(cards, StopSettings(no_signal=0.49)).rule == "no_signal"
    empty = [a_card(number, num_examples=0) for number in range(3)]
    assert find_stop(empty, StopSettings()).rule == "empty_rounds"
    assert find_stop([*empty[:2], cards[2]], StopSettings()) is None
    assert find_stop(empty[:2], StopSettings()) is None


def test_alarms_end_a_loop_where_that_is_asked_for():
    """Each one at its limit and just beyond; without the setting none of them stops anything."""
    first, last = a_card(), a_card(1, num_tokens=3.5, cut=0.6, distinct_2=0.5)
    first = Card(**{**vars(first), "distinct_2": 0.8})
    assert find_stop([first, last], StopSettings()) is None
    for name, passes, stops in (("length", 1.4, 1.39), ("cut", 0.6, 0.59), ("distinct_2", 0.62, 0.63)):
        assert find_stop([first, last], StopSettings(**{name: passes})) is None
        assert find_stop([first, last], StopSettings(**{name: stops})).rule == name


def test_a_held_out_score_that_falls_while_the_other_rises():
    def card(number, reward, held_out):
        def interval(value):
            return Interval(value, value - 0.1, value + 0.1, 0.95, 8)

        return a_card(number, reward=interval(reward), held_out=interval(held_out))

    asked = StopSettings(held_out_falls=True)
    rising = [card(0, 1.0, 1.0), card(1, 1.5, 1.4)]
    assert find_stop(rising, asked) is None
    assert find_stop([*rising, card(2, 1.8, 1.25)], asked) is None, "the intervals overlap"
    assert find_stop([*rising, card(2, 1.2, 1.0)], asked) is None, (
        "both have fallen: no sign that the judge is exploited"
    )
    assert find_stop([*rising, card(2, 1.8, 1.0)], asked).rule == "held_out_falls"
    assert find_stop([*rising, card(2, 1.8, 1.0)], StopSettings()) is None


def test_a_number_that_is_not_known_comes_back_as_one(tmp_path):
    folder = RoundFolder.of(tmp_path, 0)
    folder.close(1, a_card(distinct_2=float("nan")))
    assert np.isnan(folder.card.distinct_2)
