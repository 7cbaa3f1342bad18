"""Scorers without a model."""

import pytest

from tiltlm.judging import Item, build_judge
from tiltlm.worlds import TextWorld

PROMPT = "Guest Ada: Where is my red hat?\nDesk:"


def test_gold_is_the_reward_of_the_world():
    texts = [
        " Hello Ada, your red hat is in the hall. Glad to help!",
        " Look Ada, that old thing is in the hall. Go away now!",
    ]
    found = list(build_judge("gold").score([Item(PROMPT, text) for text in texts] + [Item("another prompt", texts[0])]))
    assert [score.value for score in found] == [4, 1, None]
    assert [score.value for score in found[:2]] == [TextWorld().reward(PROMPT, text) for text in texts]
    assert "another prompt" in found[2].error


def test_length_is_the_number_of_characters():
    assert [score.value for score in build_judge("length").score([Item("p", ""), Item("p", "grün")])] == [0, 4]


def test_the_lexicon_knows_good_from_bad_and_reads_the_response_only():
    pytest.importorskip("vaderSentiment")
    judge = build_judge("lexicon")
    texts = ["This is wonderful, I love it!", "It is a table.", "This is horrible, I hate it."]
    good, neutral, bad = (score.value for score in judge.score([Item("p", text) for text in texts]))
    assert 0.5 < good <= 1
    assert neutral == 0
    assert -1 <= bad < -0.5
    assert next(judge.score([Item("I love it!", texts[1])])).value == 0
