"""The module around a model: adapters, checkpointing, stock attention, repeated rows, limits."""

import numpy as np
import pytest
import torch
import transformers

from support.errors import raises
from tiltlm.core.errors import ModelError
from tiltlm.core.example import Example, Response, token_ids
from tiltlm.core.forest import Tree, build_trees, pack_trees
from tiltlm.logprobs.attention.hook import NAME
from tiltlm.logprobs.checkpointing import enable_checkpointing, is_checkpointed
from tiltlm.logprobs.head.find import Head
from tiltlm.logprobs.module import exact_positions
from tiltlm.logprobs.plain import plain_logps
from tiltlm.logprobs.policy import PolicyModule


def with_adapter(model, targets, seed=1):
    """Add a LoRA adapter with random weights; a fresh one changes nothing."""
    import peft

    torch.manual_seed(seed)
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM")
    )
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.1)
    return adapted


def test_the_only_child_is_the_model(make_model):
    model = make_model("llama")
    module = PolicyModule(model)
    assert list(module.named_children()) == [("model", model)]
    assert module.get_input_embeddings() is model.get_input_embeddings()
    assert module.get_output_embeddings() is model.lm_head
    assert module._no_split_modules == model._no_split_modules
    assert module.device == torch.device("cpu")


def test_tied_weights_tie_through_the_module(make_model):
    model = make_model("llama_tied")
    module = PolicyModule(model)
    model.lm_head.weight = torch.nn.Parameter(torch.zeros_like(model.lm_head.weight))
    module.tie_weights()
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("layout", ["shared", "packed"])
def test_checkpointing_changes_nothing(make_model, trees, weights, gradients, layout):
    """The layout is a keyword of the call, so recomputation sees it."""
    model = make_model("qwen3")
    module = PolicyModule(model, layout)

    def run():
        logps = module(pack_trees(trees)).token_logps
        return logps.detach(), gradients(model, (logps * weights).sum())

    logps, expected = run()
    enable_checkpointing(model)
    again, found = run()
    assert is_checkpointed(model.model.layers[0])
    assert torch.equal(logps, again)
    assert all(torch.equal(f, e) for f, e in zip(found, expected, strict=True))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_lora(make_model, trees, weights, gradients, close, checkpointing):
    model = with_adapter(make_model("llama"), "all-linear")
    expected = plain_logps(model.get_base_model(), trees)
    expected_gradients = gradients(model, (expected * weights).sum())
    if checkpointing:
        enable_checkpointing(model)
    module = PolicyModule(model)
    found = module(pack_trees(trees)).token_logps
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert close(gradients(model, (found * weights).sum()), expected_gradients, 1e-6)
    assert module.head == Head("fused"), "all-linear leaves the head alone"


def test_lora_on_the_head_is_not_bypassed(make_model, trees, weights, gradients, close):
    model = with_adapter(make_model("gemma2", tie_word_embeddings=False), ["q_proj", "lm_head"])
    expected = plain_logps(model.get_base_model(), trees)
    expected_gradients = gradients(model, (expected * weights).sum())
    module = PolicyModule(model)
    assert module.head == Head("module", softcap=30.0)
    found = module(pack_trees(trees)).token_logps
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert close(gradients(model, (found * weights).sum()), expected_gradients, 1e-6)


def test_a_head_that_is_trained_beside_the_adapter_is_not_bypassed(make_model, trees):
    """`modules_to_save`: a copy of the head is trained, and the original is used when adapters are off."""
    import peft

    base = make_model("llama")
    with torch.no_grad():
        expected_off = plain_logps(base, trees)
    model = peft.get_peft_model(
        base, peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    )
    with torch.no_grad():
        base.lm_head.modules_to_save["default"].weight.mul_(3)
        expected_on = plain_logps(base, trees)
        module = PolicyModule(model)
        assert module.head == Head("module")
        torch.testing.assert_close(module(pack_trees(trees)).token_logps, expected_on, atol=1e-6, rtol=0)
        with module.adapters_disabled():
            torch.testing.assert_close(module(pack_trees(trees)).token_logps, expected_off, atol=1e-6, rtol=0)


def test_adapters_disabled_is_the_base(make_model, trees):
    model = make_model("llama")
    with torch.no_grad():
        base = PolicyModule(model)(pack_trees(trees)).token_logps
        module = PolicyModule(with_adapter(model, ["q_proj", "v_proj", "lm_head"]))
        adapted = module(pack_trees(trees)).token_logps
        with module.adapters_disabled():
            disabled = module(pack_trees(trees)).token_logps
        enabled = module(pack_trees(trees)).token_logps
    torch.testing.assert_close(disabled, base, atol=1e-12, rtol=0)
    assert not torch.allclose(adapted, base, atol=1e-3)
    assert torch.equal(adapted, enabled)


def test_adapters_disabled_without_one_is_an_error(make_model):
    module = PolicyModule(make_model("llama"))
    with raises(ModelError, "no_adapter"), module.adapters_disabled():
        pass


def test_stock_attention_generates_with_a_cache(make_model):
    """Inside the block, a cache works and gives the same values. Outside, a call without a layout is refused."""
    model = make_model("mistral")
    module = PolicyModule(model)
    prompt = torch.tensor([[1, 5, 9, 4, 7, 30, 2, 8]])
    with raises(ModelError, "no_layout"):
        model(input_ids=prompt)
    with module.stock_attention():
        with module.stock_attention():
            pass
        assert model.config._attn_implementation == "sdpa"
        sampled = model.generate(prompt, max_new_tokens=4, min_new_tokens=4, do_sample=False, pad_token_id=0)
    assert model.config._attn_implementation == NAME
    response = Response(token_ids(sampled[0, prompt.shape[1] :].tolist()))
    with torch.no_grad():
        logps = module(pack_trees([Tree(token_ids(prompt[0].tolist()), (response,))])).token_logps
        with module.stock_attention():
            rows = torch.log_softmax(model(input_ids=sampled[:, :-1]).logits[0, prompt.shape[1] - 1 :], -1)
    torch.testing.assert_close(logps, rows.max(-1).values, atol=1e-6, rtol=0)


def test_rewrapping_keeps_the_stock_attention(make_model):
    model = make_model("llama")
    first, second = PolicyModule(model), PolicyModule(model)
    with second.stock_attention():
        assert model.config._attn_implementation == "sdpa"
    with first.stock_attention():
        assert model.config._attn_implementation == "sdpa"
    assert PolicyModule(model, "padded").config._attn_implementation == "sdpa"


def test_capped_scores_have_explicit_stock_attention(make_model):
    module = PolicyModule(make_model("gemma2"), "padded")
    assert module.config._attn_implementation == "eager"


def test_rows_share_compute_and_never_weight(make_model, gradients, close):
    """Two rows of one prompt, one response in both: computed once, and its gradient counts twice."""
    rng = np.random.default_rng(0)
    prompt, a, b, c = (token_ids(rng.integers(3, 60, n)) for n in (6, 4, 3, 5))
    examples = [
        Example("0", prompt, (Response(a), Response(b))),
        Example("1", prompt, (Response(c), Response(a))),
    ]
    trees, slots = build_trees(examples)
    assert len(pack_trees(trees).token_ids) == 6 + 3 + 2 + 4
    model = make_model("llama")
    module = PolicyModule(model)
    shared = module(pack_trees(trees)).seq_logps
    picked = torch.stack([shared[slots[e][k]] for e, k in ((0, 0), (0, 1), (1, 0), (1, 1))])
    apart = torch.cat([plain(module, prompt, r) for r in (a, b, c, a)])
    torch.testing.assert_close(picked, apart, atol=1e-6, rtol=0)
    assert close(gradients(model, picked.sum()), gradients(model, apart.sum()), 1e-6)


def plain(module, prompt, response):
    with module.stock_attention():
        return plain_logps(module.bare_model, [Tree(prompt, (Response(response),))]).sum()[None]


def test_gradients_are_deterministic(make_model):
    """One prompt with many one-token responses: its last row repeats."""
    tree = Tree(token_ids([5, 6, 7]), tuple(Response(token_ids([t])) for t in range(3, 40)))
    model = make_model("llama", torch.float32, hidden_size=64)
    module = PolicyModule(model)

    def gradient():
        model.zero_grad()
        module(pack_trees([tree])).token_logps.square().sum().backward()
        return model.model.layers[0].self_attn.q_proj.weight.grad.clone()

    first = gradient()
    assert all(torch.equal(gradient(), first) for _ in range(10))


def test_no_gradient_where_none_is_wanted(make_model, trees):
    with torch.no_grad():
        assert not PolicyModule(make_model("llama"))(pack_trees(trees)).token_logps.requires_grad


def test_sequences_beyond_learned_positions_are_refused(make_model):
    module = PolicyModule(make_model("gpt2", n_positions=16))
    tree = Tree(token_ids(range(3, 15)), (Response(token_ids([1] * 5)),))
    module(pack_trees([tree]))
    with raises(ModelError, "too_long", key="data.max_length", mentions=["17", "16"]):
        module(pack_trees([Tree(tree.prompt_ids, (Response(token_ids([1] * 6)),))]))


@pytest.mark.parametrize(
    ("rope", "limit"),
    [
        ({"rope_type": "default"}, None),
        ({"rope_type": "linear", "factor": 2.0}, None),
        ({"rope_type": "dynamic", "factor": 2.0}, 128),
        (
            {
                "rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4,
                "original_max_position_embeddings": 32,
            },
            32,
        ),
    ],
)  # fmt: skip
def test_positions_that_depend_on_neighbours_are_limited(make_model, rope, limit):
    """Long sequences of a pack would change the rotary tables of its short ones."""
    model = make_model("llama", rope_parameters={"rope_theta": 1e4, **rope})
    assert exact_positions(model.config) == limit


def test_a_negative_number_of_positions_is_no_limit():
    """XLNet has −1, because its positions are relative."""
    assert exact_positions(transformers.XLNetConfig()) is None


def test_padded_rows_equal_shared_rows_for_ragged_lengths(make_model, trees):
    model = make_model("gpt_neox")
    with torch.no_grad():
        shared = PolicyModule(model, "shared")(pack_trees(trees)).token_logps
        padded = PolicyModule(model, "padded")(pack_trees(trees)).token_logps
    torch.testing.assert_close(shared, padded, atol=1e-9, rtol=0)
