"""The inputs of each layout, written out by hand for one forest."""

import torch

from tiltlm.core.example import Response, token_ids
from tiltlm.core.forest import Tree, pack_trees
from tiltlm.logprobs.inputs import arrange, separate

FOREST = pack_trees(
    [
        Tree(token_ids([10, 11]), (Response(token_ids([1, 2, 3])), Response(token_ids([4])))),
        Tree(token_ids([12]), (Response(token_ids([5, 6]), scored=token_ids([1])),)),
    ]
)


def test_separate_sequences():
    apart = separate(FOREST)
    assert apart.token_ids.tolist() == [10, 11, 1, 2, 10, 11, 12, 5]
    assert apart.position_ids.tolist() == [0, 1, 2, 3, 0, 1, 0, 1]
    assert apart.lengths == (4, 2, 2)
    assert apart.predicts.tolist() == [1, 2, 3, 5, 7]


def test_padded_batch():
    inputs = arrange(FOREST, "padded")
    assert inputs.keywords["input_ids"].tolist() == [[10, 11, 1, 2], [10, 11, 0, 0], [12, 5, 0, 0]]
    assert inputs.predicts.tolist() == [1, 2, 3, 5, 9]


def test_packed_row():
    inputs = arrange(FOREST, "packed")
    assert inputs.keywords["input_ids"].shape == (1, 8)
    assert inputs.keywords["layout"].trees == [(4, ()), (2, ()), (2, ())]


def test_shared_row():
    inputs = arrange(FOREST, "shared")
    assert inputs.keywords["input_ids"].tolist() == [[10, 11, 1, 2, 12, 5]]
    assert inputs.keywords["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1]]
    assert inputs.predicts.tolist() == [1, 2, 3, 1, 5]
    assert inputs.keywords["layout"].trees == [(2, (2,)), (1, (1,))]


def test_every_layout_reads_the_token_before_the_target():
    """In each layout, the same token predicts the target."""
    expected = FOREST.token_ids[FOREST.predicts]
    for layout in ("shared", "packed", "padded"):
        inputs = arrange(FOREST, layout)
        assert torch.equal(inputs.keywords["input_ids"].flatten()[inputs.predicts], expected)
