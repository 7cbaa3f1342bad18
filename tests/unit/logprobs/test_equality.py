"""Values and gradients of every layout equal those of separate, unpadded forwards, for each family."""

import pytest
import torch

from tiltlm.core.example import Response, token_ids
from tiltlm.core.forest import Tree, pack_trees
from tiltlm.logprobs.module import stock_attention_name
from tiltlm.logprobs.plain import plain_logps
from tiltlm.logprobs.policy import PolicyModule

SHARING = [
    "llama", "llama_tied", "qwen2", "qwen3", "mistral", "gemma2", "gemma3", "phi3", "gpt2", "gpt_neox", "olmo2",
    "cohere", "granite", "mixtral", "qwen3_moe", "gpt_oss", "opt",
]  # fmt: skip
NOT_SHARING = ["bloom", "gptj", "mamba", "qwen3_next"]


def plain(model, trees, weights, gradients):
    model.set_attn_implementation(stock_attention_name(model))
    logps = plain_logps(model, trees)
    return logps.detach(), gradients(model, (logps * weights.to(logps)).sum())


def forest(model, layout, trees, weights, gradients, **settings):
    out = PolicyModule(model, layout, **settings)(pack_trees(trees)).token_logps
    return out.detach(), gradients(model, (out * weights.to(out)).sum())


@pytest.mark.parametrize("family", SHARING)
@pytest.mark.parametrize("layout", ["shared", "packed"])
def test_shared_and_packed(make_model, trees, weights, gradients, close, family, layout):
    """In float64; the tolerance is for float32 norms and rotary tables inside the models."""
    model = make_model(family)
    expected, expected_gradients = plain(model, trees, weights, gradients)
    logps, found = forest(model, layout, trees, weights, gradients)
    assert logps.dtype == torch.float64
    torch.testing.assert_close(logps, expected, atol=1e-6, rtol=0)
    assert close(found, expected_gradients, 1e-6)


@pytest.mark.parametrize("family", ["llama", "gemma2", "mistral", "gpt2", "mixtral", *NOT_SHARING])
def test_padded(make_model, trees, weights, gradients, close, family):
    model = make_model(family)
    expected, expected_gradients = plain(model, trees, weights, gradients)
    logps, found = forest(model, "padded", trees, weights, gradients)
    torch.testing.assert_close(logps, expected.double(), atol=1e-6, rtol=0)  # mamba's own logits are float32
    assert close(found, expected_gradients, 1e-6)


@pytest.mark.parametrize("family", ["llama", "gemma2", "mixtral"])
def test_float32(make_model, trees, weights, gradients, close, family):
    model = make_model(family, torch.float32)
    expected, expected_gradients = plain(model, trees, weights, gradients)
    logps, found = forest(model, "shared", trees, weights, gradients)
    assert logps.dtype == torch.float32
    torch.testing.assert_close(logps, expected, atol=1e-5, rtol=0)
    assert close(found, expected_gradients, 1e-5)


@pytest.mark.parametrize("layout", ["shared", "packed", "padded"])
def test_bf16_products_are_close(make_model, trees, weights, gradients, close, layout):
    """Master weights stay float32; log-probabilities too."""
    model = make_model("qwen3", torch.float32)
    expected, expected_gradients = plain(model, trees, weights, gradients)
    logps, found = forest(model, layout, trees, weights, gradients, precision="bf16")
    assert logps.dtype == torch.float32
    assert found[0].dtype == torch.float32
    assert not torch.equal(logps, expected)
    torch.testing.assert_close(logps, expected, atol=0.05, rtol=0)
    assert close(found, expected_gradients, 0.1)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_models_own_logits_serve_where_the_head_is_unknown(make_model, trees, weights, gradients, close, family):
    from tiltlm.logprobs.head.find import Head

    model = make_model(family)
    expected, expected_gradients = plain(model, trees, weights, gradients)
    for layout in ("shared", "padded"):
        logps, found = forest(model, layout, trees, weights, gradients, head=Head("model"))
        torch.testing.assert_close(logps, expected, atol=1e-6, rtol=0)
        assert close(found, expected_gradients, 1e-6)


def test_large_weights_hide_nothing(make_model, trees, weights, gradients, close):
    """With small random weights errors are small too. With weights thirty times larger, attention is sharp."""
    model = make_model("gemma2")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(30)
    expected, expected_gradients = plain(model, trees, weights, gradients)
    assert float(expected.min()) < -10
    logps, found = forest(model, "shared", trees, weights, gradients)
    torch.testing.assert_close(logps, expected, atol=1e-5, rtol=0)
    assert close(found, expected_gradients, 1e-5)


def test_scored_tokens_only(make_model, trees):
    """Several assistant turns in one response; the tokens between them are context."""
    model = make_model("llama")
    tree = trees[0]
    some = Response(tree.responses[2].token_ids, scored=token_ids([0, 3, 11]))
    with torch.no_grad():
        everything = plain_logps(model, [Tree(tree.prompt_ids, (tree.responses[2],))])
        found = PolicyModule(model)(pack_trees([Tree(tree.prompt_ids, (some, tree.responses[0]))])).token_logps
    torch.testing.assert_close(found[:3], everything[[0, 3, 11]], atol=1e-6, rtol=0)


def test_packs_change_nothing(make_model, trees):
    """A tree in a pack of its own, and in one with others."""
    module = PolicyModule(make_model("mistral"))
    with torch.no_grad():
        together = module(pack_trees(trees)).token_logps
        alone = torch.cat([module(pack_trees([tree])).token_logps for tree in trees])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize("layout", ["shared", "packed", "padded"])
def test_a_real_model(stories, layout):
    """Trained weights, in float64."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(stories, dtype=torch.float64)
    tokenizer = AutoTokenizer.from_pretrained(stories)

    def ids(text, special):
        return token_ids(tokenizer(text, add_special_tokens=special).input_ids)

    prompt = ids("Once upon a time, there was a little girl named Lily.", True)
    answers = ("She loved to play in the park.", "The big dog was not happy!", "No.")
    tree = Tree(prompt, tuple(Response(ids(answer, False)) for answer in answers))
    short = Tree(prompt[:1], (Response(ids("One day", False)),))
    with torch.no_grad():
        expected = plain_logps(model, [tree, short])
        found = PolicyModule(model, layout)(pack_trees([tree, short]))
    torch.testing.assert_close(found.token_logps, expected, atol=1e-6, rtol=0)
    assert float(found.mean_logps[0]) > -4, "a trained model is not at chance (−6.2)"
