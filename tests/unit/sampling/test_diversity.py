"""Diversity of answers, against counts by hand."""

import math

import pytest

from tiltlm.core.example import token_ids
from tiltlm.sampling.answers import AnswerRow
from tiltlm.sampling.diversity import diversity_of


def row(*answers: str, **more) -> AnswerRow:
    return AnswerRow("x", "p", answers, more.pop("ended", (True,) * len(answers)), **more)


def test_distinct_words_and_pairs_of_words():
    """a b a | a b: words a b a a b, 2 of 5 distinct; pairs ab, ba, ab: 2 of 3."""
    found = diversity_of([row("a b a", "a b")])
    assert found.distinct_1 == pytest.approx(2 / 5)
    assert found.distinct_2 == pytest.approx(2 / 3)


def test_means_are_over_prompts():
    """More prompts with the same answers change nothing; a pooled count would fall."""
    one = diversity_of([row("a b a", "a c")])
    many = diversity_of([row("a b a", "a c")] * 7)
    assert (one.distinct_1, one.distance) == (many.distinct_1, many.distance)
    assert many.num_prompts == 7
    assert many.num_answers == 14


def test_distance_is_one_minus_jaccard_of_word_trigrams():
    """a b c d has abc, bcd; b c d e has bcd, cde: 1 of 3 in common. The third answer shares nothing."""
    found = diversity_of([row("a b c d", "b c d e", "x")])
    assert found.distance == pytest.approx((2 / 3 + 1 + 1) / 3)


@pytest.mark.parametrize(("a", "b", "distance"), [("x y", "x y", 0), ("x y", "y x", 1), ("", "", 0), ("", "x", 1)])
def test_distance_of_short_answers(a, b, distance):
    assert diversity_of([row(a, b)]).distance == distance


def test_copies_are_counted_by_tokens_where_these_are_known():
    assert diversity_of([row("a", "a", "b", "a")]).duplicates == pytest.approx(2 / 4)
    ids = tuple(token_ids(x) for x in ([1, 2], [3], [1, 2], [4]))
    assert diversity_of([row("a", "a", "b", "a", token_ids=ids)]).duplicates == pytest.approx(1 / 4)
    assert diversity_of([row("a"), row("a")]).duplicates == 0, "other prompts do not count"


def test_entropy_is_per_token_not_per_answer():
    """(3 + 1) nats over 3 + 1 tokens; the mean of the answers' own rates would be 1 too, so lengths differ."""
    ids = token_ids([1, 2, 3]), token_ids([1])
    found = diversity_of([row("a", "b", token_ids=ids, logps=(-6.0, -1.0))])
    assert found.entropy == pytest.approx(7 / 4)


def test_what_is_not_known_is_nan():
    found = diversity_of([row("a b c", ended=(False,))])
    assert math.isnan(found.distance)
    assert math.isnan(found.entropy)
    assert found.cut == 1
    assert math.isnan(diversity_of([]).duplicates)


def test_order_of_answers_does_not_matter():
    answers = ("a b c d e", "a b d c e", "c d e f", "a b c d e")
    one, other = diversity_of([row(*answers)]), diversity_of([row(*answers[::-1])])
    assert one == other
