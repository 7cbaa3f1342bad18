"""The flex route: rule and blocks against the definition, values and gradients against attention by segment.

On a CPU torch computes flex attention without gradient unless a check of its is lifted; traced and run uncompiled
("eager") it is the same function that CUDA compiles, with the same number of compilations.
"""

import random

import pytest
import torch
from torch._dynamo.utils import counters
from torch.nn.attention import flex_attention as torch_flex

from tiltlm.logprobs.attention import flex, segments
from tiltlm.logprobs.attention.layout import Layout, visible
from tiltlm.logprobs.attention.segments import Scores

CPU = torch.device("cpu")
TREES = ((9, (5, 1, 7)), (1, (4,)), (6, ()), (3, (0, 2)))
LONG = ((150, (60, 1, 130)), (1, (3, 40)), (300, (129, 128)), (2, ()))


def layout_of(trees):
    return Layout(tuple(p for p, _ in trees), tuple(b for _, b in trees))


def drawn(number):
    """A random layout of several trees."""
    rng = random.Random(number)
    count = rng.randint(2, 6)
    prompts = tuple(rng.randint(1, 150) for _ in range(count))
    return Layout(prompts, tuple(tuple(rng.randint(0, 200) for _ in range(rng.randint(0, 3))) for _ in range(count)))


def whole_mask(layout, window):
    return torch.block_diag(*[torch.from_numpy(visible(p, b, window)) for p, b in layout.trees]).bool()


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch):
    """Trace and differentiate kernels as for CUDA, and run them uncompiled."""
    compile_ = torch.compile
    monkeypatch.setattr(flex.torch, "compile", lambda call, dynamic: compile_(call, dynamic=dynamic, backend="eager"))
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *_: None)
    flex._kernel.cache_clear()
    torch._dynamo.reset()
    yield
    flex._kernel.cache_clear()
    torch._dynamo.reset()


@pytest.mark.parametrize("window", [None, 1, 3, 8, 100])
@pytest.mark.parametrize("trees", [TREES, LONG])
def test_the_rule_is_the_definition(trees, window):
    layout = layout_of(trees)
    row = torch.arange(layout.num_tokens)
    seen = flex.rule(layout, window, CPU)(row[0], row[0], row[:, None], row[None])
    assert torch.equal(seen, whole_mask(layout, window))


@pytest.mark.parametrize("window", [None, 1, 60, 140, 200])
@pytest.mark.parametrize("layout", [layout_of(TREES), layout_of(LONG), drawn(1), Layout((1000,), ((300, 200),))])
def test_blocks_are_those_of_the_mask(layout, window):
    """A block is needed where any query sees any key; it is whole where all see all and the keys are of one segment."""
    size = -(-layout.num_tokens // flex.BLOCK)
    padded = torch.zeros(size * flex.BLOCK, size * flex.BLOCK, dtype=torch.bool)
    padded[: layout.num_tokens, : layout.num_tokens] = whole_mask(layout, window)
    tiles = padded.view(size, flex.BLOCK, size, flex.BLOCK).transpose(1, 2).flatten(2)
    some, whole = flex.blocks(layout, window)
    assert torch.equal(torch.from_numpy(some), tiles.any(2))
    starts = {own.start // flex.BLOCK for _, own in layout.spans if own.start % flex.BLOCK}
    inside = torch.tensor([block not in starts for block in range(size)])
    assert torch.equal(torch.from_numpy(whole), tiles.all(2) & inside)


def test_whole_blocks_occur():
    """Otherwise the comparison above would be empty."""
    assert flex.blocks(Layout((1000,), ((300, 200),)), None)[1].sum() > 10
    assert flex.blocks(Layout((1000,), ((300, 200),)), 300)[1].sum() > 5


def test_the_mask_of_a_row_is_made_once():
    layout = layout_of(TREES)
    assert flex.block_mask(layout, 3, CPU) is flex.block_mask(layout, 3, CPU)
    assert flex.block_mask(layout, 3, CPU) is not flex.block_mask(layout, None, CPU)


CASES = {
    "plain": (4, None, False, 16),
    "grouped heads": (2, None, False, 16),
    "soft cap": (2, 2.0, False, 16),
    "sinks and another value width": (1, None, True, 12),
}


@pytest.mark.filterwarnings("ignore")  # torch traces and differentiates code of its own here that is meant for CUDA
@pytest.mark.parametrize("case", CASES)
def test_value_and_gradients_equal_attention_by_segment(case):
    groups, softcap, has_sinks, value_width = CASES[case]
    layout, generator = layout_of(LONG), torch.Generator().manual_seed(0)
    shapes = [(4, 16), (groups, 16), (groups, value_width)]
    leaves = [torch.randn(1, h, layout.num_tokens, w, generator=generator) for h, w in shapes]
    leaves += [torch.randn(4, generator=generator)] * has_sinks
    leaves = [leaf.requires_grad_() for leaf in leaves]
    scores = Scores(0.25, softcap, leaves[3] if has_sinks else None)
    weights = torch.randn(1, layout.num_tokens, 4, value_width, generator=generator)
    found, expected = (
        [out, *torch.autograd.grad((out * weights).sum(), leaves)]
        for attend in (flex.attend_flex, segments.attend_segments)
        for out in [attend(*leaves[:3], layout, 20, scores)]
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("scores", [Scores(0.25), Scores(0.25, 2.0), Scores(0.25, None, torch.ones(4))])
def test_layouts_lengths_and_windows_compile_nothing_again(scores):
    counters.clear()
    for number in range(6):
        layout = drawn(number)
        query, key, value = (torch.randn(1, heads, layout.num_tokens, 16) for heads in (4, 2, 2))
        for window in (None, 20, 3 + number):
            found, expected = (
                a(query, key, value, layout, window, scores) for a in (flex.attend_flex, segments.attend_segments)
            )
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert counters["stats"]["unique_graphs"] == 1


def test_a_row_of_one_block_and_a_row_of_one_token():
    """The smallest shapes, for which compilers often make special code."""
    for layout in (layout_of(TREES), Layout((1,), ((),))):
        query, key, value = (torch.randn(1, 2, layout.num_tokens, 16) for _ in range(3))
        found, expected = (
            a(query, key, value, layout, None, Scores(0.25)) for a in (flex.attend_flex, segments.attend_segments)
        )
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
