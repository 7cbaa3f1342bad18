"""Index views: their counts and weights."""

import pytest

from support.errors import raises
from tiltlm.core import (
    Comparison,
    DataError,
    Demonstrations,
    Example,
    Lists,
    Pairs,
    Response,
    UnpairedResponses,
    token_ids,
)

R = Response(token_ids([1, 2]))
S = Response(token_ids([3, 4, 5]))


def test_several_comparisons_of_one_example_have_a_weighted_mean():
    example = Example(
        "a", token_ids([9]), (R, S), (Comparison(0, 1, weight=3.0), Comparison(1, 0, weight=1.0)), weight=2.0
    )
    pairs = Pairs.of([example], [[4, 7]])
    assert pairs.chosen.tolist() == [4, 7]
    assert pairs.rejected.tolist() == [7, 4]
    assert pairs.weight.tolist() == [1.5, 0.5]  # shares ¾ and ¼, times 2
    assert pairs.counts().examples == 1


def test_weights_do_not_enter_the_divisor():
    examples = [Example(str(w), token_ids([9]), (R, S), (Comparison(0, 1),), weight=w) for w in (0.0, 5.0)]
    assert Pairs.of(examples, [[0, 1], [0, 1]]).counts().examples == 2


def test_labels_count_responses():
    unpaired = UnpairedResponses.of([Example("a", token_ids([9]), (R, S), labels=(True, False))], [[0, 1]])
    assert unpaired.desirable.tolist() == [True, False]
    assert (unpaired.counts().examples, unpaired.counts().responses) == (1, 2)


def test_a_pair_as_demonstration_is_its_chosen_response():
    view = Demonstrations.of([Example("a", token_ids([9]), (R, S), (Comparison(1, 0),))], [[0, 1]])
    assert view.response.tolist() == [1]
    assert view.counts().tokens == 3


@pytest.mark.parametrize(
    ("view", "code"), [(Pairs, "needs_pairs"), (UnpairedResponses, "needs_unpaired"), (Lists, "needs_lists")]
)
def test_an_example_of_another_shape_is_refused_by_name(view, code):
    with raises(DataError, code, row="train:17", mentions=["train:17"]):
        view.of([Example("train:17", token_ids([9]), (R,))], [[0]])
