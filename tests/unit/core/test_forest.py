"""Forests: each prompt and response once, continued positions, repeated rows at the end of a prompt."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from tiltlm.core import Example, Response, build_trees, pack_trees, token_ids


def response(*ids: int, scored: list[int] | None = None) -> Response:
    return Response(token_ids(ids), scored=None if scored is None else np.array(scored, dtype=np.int32))


def example(prompt: list[int], *responses: Response) -> Example:
    return Example("t", token_ids(prompt), responses)


def test_one_pair_laid_out_by_hand():
    trees, slots = build_trees([example([7, 8, 9], response(1, 2, 3), response(4, 5))])
    forest = pack_trees(trees)
    assert slots == [[0, 1]]
    assert forest.token_ids.tolist() == [7, 8, 9, 1, 2, 4]  # last tokens are targets only
    assert forest.position_ids.tolist() == [0, 1, 2, 3, 4, 3]
    assert forest.predicts.tolist() == [2, 3, 4, 2, 5]  # both answers start from the last prompt token
    assert forest.targets.tolist() == [1, 2, 3, 4, 5]
    assert forest.response_index.tolist() == [0, 0, 0, 1, 1]
    assert forest.num_tokens.tolist() == [3, 2]
    assert forest.prompt_lengths == (3,)
    assert forest.branch_lengths == ((2, 1),)


def test_one_token_response_adds_no_input():
    forest = pack_trees(build_trees([example([7], response(1), response(2))])[0])
    assert forest.token_ids.tolist() == [7]
    assert forest.predicts.tolist() == [0, 0]
    assert forest.branch_lengths == ((0, 0),)


def test_only_scored_offsets_are_scored():
    forest = pack_trees(build_trees([example([7], response(1, 2, 3, 4, scored=[0, 3]))])[0])
    assert forest.token_ids.tolist() == [7, 1, 2, 3]
    assert forest.predicts.tolist() == [0, 3]
    assert forest.targets.tolist() == [1, 4]
    assert forest.num_tokens.tolist() == [2]


def test_equal_prompts_and_responses_are_laid_out_once():
    a, b, c = response(1, 2), response(3), response(1, 2)
    trees, slots = build_trees([example([7], a, b), example([8], a), example([7], c, response(9))])
    assert [t.prompt_ids.tolist() for t in trees] == [[7], [8]]
    assert slots == [[0, 1], [3], [0, 2]]
    assert pack_trees(trees).num_responses == 4


def test_the_same_tokens_scored_differently_stay_apart():
    trees, slots = build_trees([example([7], response(1, 2), response(1, 2, scored=[1]))])
    assert slots == [[0, 1]]
    assert pack_trees(trees).num_tokens.tolist() == [2, 1]


tokens = st.lists(st.integers(0, 3), min_size=1, max_size=4)


@given(st.lists(st.tuples(tokens, st.lists(tokens, min_size=1, max_size=3)), min_size=1, max_size=5))
def test_every_scored_token_is_predicted_from_its_own_context(rows):
    """Walking back from each predicting row gives exactly the prompt and the response's earlier tokens."""
    examples = [example(p, *(response(*r) for r in rs)) for p, rs in rows]
    trees, slots = build_trees(examples)
    forest = pack_trees(trees)
    starts = torch.cumsum(forest.num_tokens, 0) - forest.num_tokens
    for e, ex in enumerate(examples):
        for k, r in enumerate(ex.responses):
            n = slots[e][k]
            first = int(starts[n])
            rows_ = forest.predicts[first : first + int(forest.num_tokens[n])]
            assert forest.targets[first : first + len(rows_)].tolist() == r.token_ids.tolist()
            assert forest.position_ids[rows_].tolist() == [len(ex.prompt_ids) - 1 + i for i in range(len(rows_))]
            prompt_end = int(rows_[0]) + 1
            assert forest.token_ids[prompt_end - len(ex.prompt_ids) : prompt_end].tolist() == ex.prompt_ids.tolist()
            assert forest.token_ids[rows_[1:]].tolist() == r.token_ids[:-1].tolist()
    assert len(forest.token_ids) == sum(t.num_tokens for t in trees)
