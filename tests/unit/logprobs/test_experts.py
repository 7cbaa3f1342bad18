"""Routers' loads and probabilities in every layout equal those of separate sequences in transformers' own forwards."""

import pytest
import torch

from support.errors import raises
from tiltlm.core.errors import ModelError
from tiltlm.core.forest import pack_trees
from tiltlm.logprobs.checkpointing import enable_checkpointing
from tiltlm.logprobs.experts import experts_per_token
from tiltlm.logprobs.head.states import Head
from tiltlm.logprobs.module import stock_attention_name
from tiltlm.logprobs.policy import PolicyModule


def make_mixture(make_model, family="mixtral", **changes):
    """Make a mixture with large router weights, so that loads are unequal."""
    model = make_model(family, **changes)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "gate.weight" in name or "router.weight" in name:
                parameter.mul_(30)
    return model


def separate_routing(model, trees):
    """Loads and probabilities by router, one sequence at a time, with gradient: the definition."""
    model.set_attn_implementation(stock_attention_name(model))
    chosen, rows = model.config.num_experts_per_tok, None
    for tree in trees:
        for response in tree.responses:
            ids = torch.tensor([[*tree.prompt_ids, *response.token_ids][:-1]])
            logits = model(input_ids=ids, output_router_logits=True, use_cache=False).router_logits
            own = []
            for layer in logits:
                probabilities = layer.flatten(0, -2).softmax(-1)
                loads = torch.zeros(probabilities.shape[1], dtype=torch.float64)
                for row in probabilities:
                    loads[row.argsort()[-chosen:]] += 1
                own.append(torch.stack((loads, probabilities.double().sum(0))))
            rows = torch.stack(own) if rows is None else rows + torch.stack(own)
    return rows[:, 0], rows[:, 1]


@pytest.mark.parametrize("layout", ["shared", "packed", "padded"])
@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "gpt_oss"])
def test_as_separate_sequences(make_model, trees, gradients, close, family, layout):
    """A prompt counts once for each of its responses, padding never, and the last layer like the others."""
    model = make_mixture(make_model, family)
    loads, probabilities = separate_routing(model, trees)
    weights = torch.randn(loads.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = gradients(model, (weights * probabilities).sum())
    found = PolicyModule(model, layout)(pack_trees(trees), routing=True)
    assert not found.router_loads.requires_grad
    torch.testing.assert_close(found.router_loads.double(), loads, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.router_probabilities.double(), probabilities, atol=1e-5, rtol=0)
    assert close(gradients(model, (weights * found.router_probabilities).sum()), expected, 1e-5)
    num_tokens = sum(len(t.prompt_ids) + len(r.token_ids) - 1 for t in trees for r in t.responses)
    assert found.router_probabilities.sum(1).tolist() == pytest.approx([num_tokens] * len(loads))
    assert found.router_loads.sum(1).tolist() == pytest.approx([2 * num_tokens] * len(loads))
    assert loads.max() > 1.2 * loads.mean(), "balanced routers would test little"


def test_layers_of_another_kind_and_padding(make_model, trees):
    """An architecture that needs the padded layout."""
    model = make_mixture(make_model, "qwen3_next")
    loads, probabilities = separate_routing(model, trees)
    found = PolicyModule(model, "padded")(pack_trees(trees), routing=True)
    torch.testing.assert_close(found.router_loads.double(), loads, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.router_probabilities.double(), probabilities, atol=1e-5, rtol=0)


@pytest.mark.parametrize("layout", ["shared", "padded"])
def test_a_head_of_unknown_shape(make_model, trees, layout):
    model = make_mixture(make_model)
    loads, probabilities = separate_routing(model, trees)
    found = PolicyModule(model, layout, head=Head("model"))(pack_trees(trees), routing=True)
    torch.testing.assert_close(found.router_loads, loads, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.router_probabilities, probabilities, atol=1e-6, rtol=0)


def test_bf16_products_do_not_round_the_counts(make_model, trees):
    """Three trees, each ten times: more tokens than bf16 can count."""
    module = PolicyModule(make_mixture(make_model, dtype=torch.float32), precision="bf16")
    with torch.no_grad():
        found = module(pack_trees(trees * 10), routing=True)
    num_tokens = 10 * sum(len(t.prompt_ids) + len(r.token_ids) - 1 for t in trees for r in t.responses)
    assert num_tokens > 512
    assert found.router_loads.sum(1).tolist() == [2 * num_tokens] * 2
    assert torch.equal(found.router_loads, found.router_loads.round())
    assert found.router_probabilities.sum(1).tolist() == pytest.approx([num_tokens] * 2, rel=1e-6)


def test_log_probabilities_are_the_same(make_model, trees):
    module = PolicyModule(make_mixture(make_model))
    with torch.no_grad():
        plain, routed = module(pack_trees(trees)), module(pack_trees(trees), routing=True)
    torch.testing.assert_close(routed.token_logps, plain.token_logps, atol=1e-12, rtol=0)
    assert plain.router_loads is plain.router_probabilities is None


def test_with_checkpoints(make_model, trees, gradients, close):
    """Recomputation in the backward pass is not counted again."""
    model = make_mixture(make_model)
    module = PolicyModule(model)
    expected = module(pack_trees(trees), routing=True)
    slopes = torch.randn_like(expected.router_probabilities)
    plain = gradients(model, (slopes * expected.router_probabilities).sum() + expected.token_logps.sum())
    enable_checkpointing(model)
    found = module(pack_trees(trees), routing=True)
    torch.testing.assert_close(found.router_loads, expected.router_loads)
    again = gradients(model, (slopes * found.router_probabilities).sum() + found.token_logps.sum())
    assert close(again, plain, 1e-9)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace")
def test_compiled_layers(make_model, trees):
    torch._dynamo.reset()
    module = PolicyModule(make_mixture(make_model, num_hidden_layers=3))
    expected = module(pack_trees(trees), routing=True)
    module.compile_layers("eager")
    for _ in range(2):
        found = module(pack_trees(trees), routing=True)
        torch.testing.assert_close(found.router_loads, expected.router_loads)
        torch.testing.assert_close(found.router_probabilities, expected.router_probabilities)
    torch._dynamo.reset()


def test_a_dense_model_is_refused(make_model, trees):
    model = make_model("llama")
    with raises(ModelError, "not_supported", key="training.router_aux_loss_coef", mentions=["LlamaForCausalLM"]):
        experts_per_token(model)
    with raises(ModelError, "not_supported", key="training.router_aux_loss_coef"):
        PolicyModule(model)(pack_trees(trees), routing=True)
