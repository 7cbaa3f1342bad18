"""What the lines of verdicts cost, and whose scores they are."""

import pytest

from tiltlm.recipes.online.judging.verdicts import cost_of, own_scores, scores_of
from tiltlm.sampling.answers import AnswerRow


def test_the_cost_of_judgements_that_are_free_priced_or_without_a_price():
    assert cost_of([{"id": "a"}, {"id": "b"}]) == 0.0
    assert cost_of([{"id": "a", "cost": 0.25}, {"id": "b"}, {"id": "a", "cost": 0.5}]) == pytest.approx(0.75)
    assert cost_of([{"id": "a", "cost": 0.25}, {"id": "b", "cost": None}]) is None


def test_scores_of_rivals_stand_behind_those_of_the_policy():
    verdicts = [{"id": "a", "scores": [1.0, None, 3.0]}, {"id": "b", "pairs": []}]
    assert scores_of(verdicts)["a"][::2] == [1.0, 3.0]
    assert own_scores([AnswerRow("a", "prompt", ("x",), (True,))], verdicts) == {"a": [1.0]}
