"""The last layer skips what is not read: fewer tokens go through its MLP. test_equality.py checks the numbers."""

import copy
import gc
import weakref

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from tiltlm.core.forest import pack_trees
from tiltlm.logprobs.attention.layout import Layout
from tiltlm.logprobs.checkpointing import enable_checkpointing
from tiltlm.logprobs.policy import PolicyModule
from tiltlm.logprobs.selfcheck import choose_layout

SHARING = (
    "llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3", "phi3", "gpt2", "gpt_neox", "olmo2", "cohere", "granite",
    "mixtral", "qwen3_moe", "gpt_oss", "opt",
)  # fmt: skip


def mlp_of(layer):
    """The largest child of a decoder layer that is not its attention."""
    children = [c for name, c in layer.named_children() if "attn" not in name and "attention" not in name]
    return max(children, key=lambda c: sum(p.numel() for p in c.parameters()))


def layers_of(module):
    names = module._no_split_modules
    return [m for m in module.bare_model.modules() if type(m).__name__ in names]


class Seen:
    """The number of tokens that a submodule gets in each call."""

    def __init__(self, module):
        self.counts = []
        module.register_forward_pre_hook(lambda _, args: self.counts.append(args[0].flatten(0, -2).shape[0]))


def test_read_tokens():
    """The last token of a prompt with responses, all tokens of responses, and prompts without responses."""
    layout = Layout((3, 2, 4), ((2, 1), (), (5,)))
    assert layout.read(torch.device("cpu")).tolist() == [2, 3, 4, 5, 6, 7, 11, 12, 13, 14, 15, 16]


@pytest.mark.parametrize("family", [f for f in SHARING if f != "opt"])  # opt's MLP is two layers of its own
def test_the_mlp_sees_only_what_is_read(make_model, trees, family):
    module = PolicyModule(make_model(family))
    layers = layers_of(module)
    first, last = Seen(mlp_of(layers[0])), Seen(mlp_of(layers[-1]))
    forest = pack_trees(trees)
    with torch.no_grad():
        module(forest)
    inner = sum(p - 1 for p, b in zip(forest.prompt_lengths, forest.branch_lengths, strict=True) if any(b))
    assert inner > 0
    assert first.counts == [len(forest.token_ids)]
    assert last.counts == [len(forest.token_ids) - inner]


def test_recomputation_skips_as_well(make_model, trees):
    """Under checkpointing the layer's own hooks do not run again in the backward pass; its submodules' do."""
    model = make_model("llama")
    enable_checkpointing(model)
    module = PolicyModule(model)
    seen = Seen(mlp_of(layers_of(module)[-1]))
    for _ in range(2):
        module(pack_trees(trees)).seq_logps.sum().backward()
    assert len(seen.counts) == 4
    assert len(set(seen.counts)) == 1


@pytest.mark.parametrize("checkpointing", [False, True])
def test_stock_attention_is_whole(make_model, trees, checkpointing):
    """The model itself computes all of a row, even of one with as many tokens as the forest before it."""
    model = make_model("llama")
    if checkpointing:
        enable_checkpointing(model)
    ids = torch.arange(len(pack_trees(trees).token_ids))[None] % 61
    expected = model(input_ids=ids, use_cache=False).logits
    module = PolicyModule(model)
    module(pack_trees(trees)).seq_logps.sum().backward()  # checkpointing leaves the state of a recomputation behind
    with module.stock_attention():
        again = model(input_ids=ids, use_cache=False).logits
    assert torch.equal(again, expected)


def test_other_layouts_are_whole(make_model, trees):
    """A model may be wrapped twice. In the other layouts every token may be read."""
    model = make_model("llama")
    with torch.no_grad():
        expected = PolicyModule(model, "padded")(pack_trees(trees)).token_logps
        shared = PolicyModule(model, "shared")(pack_trees(trees)).token_logps
        packed = PolicyModule(model, "packed")(pack_trees(trees)).token_logps
    torch.testing.assert_close(shared, expected)
    torch.testing.assert_close(packed, expected)


def test_a_copy_has_its_own_hooks(make_model, trees):
    """A reference keeps a copy with its hooks. Calls of one do not change the other."""
    module = PolicyModule(make_model("llama"))
    with torch.no_grad():
        expected = [module(pack_trees(part)).token_logps for part in (trees, trees[:2])]
        copied = copy.deepcopy(module)
        seen = Seen(mlp_of(layers_of(copied)[-1]))
        again = [copied(pack_trees(trees)).token_logps, module(pack_trees(trees[:2])).token_logps]
    assert len(seen.counts) == 1
    assert all(torch.equal(a, e) for a, e in zip(again, expected, strict=True))


def test_wrapping_again_hooks_once(make_model):
    model = make_model("llama")
    counts = [sum(len(m._forward_pre_hooks) for m in PolicyModule(model).modules()) for _ in range(2)]
    assert counts[0] == counts[1] > 0


def test_hooks_go_where_another_layout_is_tried(make_model, trees):
    """The self-check tries layouts on the user's own model. After a refused layout no hooks remain."""
    model = make_model("llama")
    before = sum(len(m._forward_pre_hooks) for m in model.modules())
    shared = PolicyModule(model)
    seen = Seen(mlp_of(layers_of(shared)[-1]))
    whole = PolicyModule(model, trims=False)
    with torch.no_grad():
        whole(pack_trees(trees))
    assert seen.counts[-1] == len(pack_trees(trees).token_ids)
    assert sum(len(m._forward_pre_hooks) for m in model.modules()) == before + 1


class Twice(LlamaDecoderLayer):
    """A layer that runs twice, the second time on its own output."""

    def forward(self, hidden_states, **keywords):
        return super().forward(super().forward(hidden_states, **keywords), **keywords)


def test_a_layer_that_attends_twice_shares_whole(make_model):
    """Its second attention reads all of the prompt. The self-check finds that, and shares without skipping."""
    model = make_model("llama")
    for layer in model.model.layers:
        layer.__class__ = Twice
    model._no_split_modules = ["Twice"]
    choice = choose_layout(model)
    assert (choice.layout, choice.trims, choice.refused) == ("shared", False, ())


def test_hooks_keep_no_model_alive(make_model, trees):
    """A copy is freed when its last reference is deleted, without the garbage collector."""
    module = PolicyModule(make_model("llama"))
    module(pack_trees(trees)).seq_logps.sum().backward()
    attention = weakref.ref(layers_of(module)[-1].self_attn)
    gc.disable()
    try:
        del module
        assert attention() is None
    finally:
        gc.enable()
