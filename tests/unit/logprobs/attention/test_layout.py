"""Masks, segments and gathered keys, against the definition written as loops."""

import numpy as np
import pytest
import torch

from tiltlm.logprobs.attention import layout as layouts
from tiltlm.logprobs.attention.layout import Layout, visible

TREES = ((7, (3, 1, 5)), (1, (2,)), (4, ()), (6, (1,)))


def definition(trees, window):
    """The whole row's mask, token by token: same tree, prompt or own branch, not later, within the window."""
    tokens = []
    for t, (prompt, branches) in enumerate(trees):
        tokens += [(t, 0, i) for i in range(prompt)]
        tokens += [(t, b + 1, prompt + i) for b, length in enumerate(branches) for i in range(length)]
    mask = torch.zeros(len(tokens), len(tokens), dtype=torch.bool)
    for q, (tree, branch, position) in enumerate(tokens):
        for k, (other_tree, other_branch, other) in enumerate(tokens):
            related = tree == other_tree and other_branch in (0, branch)
            mask[q, k] = related and k <= q and (window is None or position - other < window)
    return mask


def whole(layout, window):
    """Return the mask of the whole row that the blocks of a layout define."""
    mask = torch.zeros(layout.num_tokens, layout.num_tokens, dtype=torch.bool)
    starts = [sum(layout.segments[:i]) for i in range(len(layout.segments))]
    for i, block in enumerate(layout.blocks(window, torch.device("cpu"))):
        rows = range(starts[i], starts[i] + layout.segments[i])
        columns = [c for s in block.keys for c in range(starts[s], starts[s] + layout.segments[s])]
        seen = torch.ones(len(rows), len(columns)).tril().bool() if block.mask is None else block.mask
        for r, row in enumerate(rows):
            mask[row, columns] = seen[r]
    return mask


def layout_of(trees):
    return Layout(tuple(p for p, _ in trees), tuple(b for _, b in trees))


@pytest.mark.parametrize("window", [None, 1, 3, 8, 100])
@pytest.mark.parametrize("whole_tree", [256, 5, 0])
def test_blocks_are_the_definition(monkeypatch, window, whole_tree):
    """For trees of one call and of several calls."""
    monkeypatch.setattr(layouts, "WHOLE_TREE", whole_tree)
    layout = layout_of(TREES)
    assert torch.equal(whole(layout, window), definition(TREES, window))


def test_a_bare_prompt_needs_no_mask():
    (block,) = layout_of(((9, ()),)).blocks(None, torch.device("cpu"))
    assert block.mask is None


def test_one_token_responses_are_no_segments():
    layout = Layout((3, 2), ((0, 4, 0), (0,)))
    assert layout.trees == [(3, (4,)), (2, ())]
    assert layout.num_tokens == 9
    assert layout.longest == 7


def test_blocks_are_made_once():
    layout = layout_of(TREES)
    assert layout.blocks(3, torch.device("cpu")) is layout.blocks(3, torch.device("cpu"))


@pytest.mark.parametrize("window", [None, 1, 4])
def test_gathered_keys_are_the_definition(window):
    """One variable-length call, bottom right: query i of n sees keys j ≤ m − n + i, and those within the window."""
    layout = layout_of(TREES)
    gathered = layout.gathered(torch.device("cpu"))
    mask = torch.zeros(layout.num_tokens, layout.num_tokens, dtype=torch.bool)
    query_bounds, key_bounds = gathered.query_bounds.tolist(), gathered.key_bounds.tolist()
    for s in range(len(query_bounds) - 1):
        queries = range(query_bounds[s], query_bounds[s + 1])
        keys = gathered.keys[key_bounds[s] : key_bounds[s + 1]].tolist()
        for i, q in enumerate(queries):
            last = len(keys) - len(queries) + i
            for j, k in enumerate(keys):
                mask[q, k] |= j <= last and (window is None or j > last - window)
    assert torch.equal(mask, definition(TREES, window))
    assert gathered.query_bounds.dtype == gathered.key_bounds.dtype == torch.int32
    assert gathered.max_queries == 7
    assert gathered.max_keys == 12


def test_visible_rows_from_a_branch():
    full = visible(4, (3,), window=2)
    assert np.array_equal(visible(4, (3,), window=2, first=4), full[4:])


def test_spans_cover_the_row_and_name_their_prompts():
    spans = layout_of(((3, (2, 1)), (1, ()))).spans
    assert spans == [
        (range(0), range(3)),
        (range(3), range(3, 5)),
        (range(3), range(5, 6)),
        (range(6, 6), range(6, 7)),
    ]


def test_what_is_read_is_the_end_of_prompts_and_all_of_responses():
    layout = layout_of(((3, (2, 1)), (2, ())))
    assert layout.read(torch.device("cpu")).tolist() == [2, 3, 4, 5, 6, 7]
