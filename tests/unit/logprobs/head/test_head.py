"""The chunked head against a full log-softmax, and how it finds what a model does to its logits."""

import pytest
import torch
from torch import nn

from tiltlm.logprobs.head import token_values as chunked
from tiltlm.logprobs.head.find import Head, find_head
from tiltlm.logprobs.head.token_values import chunk_rows, token_values
from tiltlm.logprobs.plain import select_logps

HEADS = {
    "plain": Head(),
    "scaled": Head(scale=0.25),
    "capped": Head(softcap=3.0),
    "scaled and capped": Head(scale=2.0, softcap=3.0),
}


def draw(rows=7, width=5, vocabulary=11, bias=True, dtype=torch.float64):
    torch.manual_seed(0)
    module = nn.Linear(width, vocabulary, bias=bias, dtype=dtype)
    hidden = torch.randn(rows, width, dtype=dtype, requires_grad=True)
    return hidden, module, torch.randint(0, vocabulary, (rows,))


def logps(head, hidden, module, targets, chunk=None):
    return token_values(head, hidden, module, targets, chunk=chunk).logps


def full(head, hidden, module, targets):
    """The same by autograd through all logits."""
    logits = module(hidden) * head.scale
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    return torch.log_softmax(logits, dim=-1)[torch.arange(len(targets)), targets]


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
@pytest.mark.parametrize("keep_bytes", [0, 2**30])
def test_values_and_gradients_equal_the_full_softmax(monkeypatch, name, bias, chunk, keep_bytes):
    """For any chunk, with logits kept and computed again."""
    monkeypatch.setattr(chunked, "KEEP_BYTES", keep_bytes)
    hidden, module, targets = draw(bias=bias)
    leaves = [hidden, *module.parameters()]
    weights = torch.randn(len(targets), dtype=torch.float64)
    out, expected = logps(HEADS[name], hidden, module, targets, chunk), full(HEADS[name], hidden, module, targets)
    torch.testing.assert_close(out, expected, atol=1e-14, rtol=1e-13)
    for a, b in zip(*(torch.autograd.grad((o * weights).sum(), leaves) for o in (out, expected)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-13, rtol=1e-12)


@pytest.mark.parametrize("name", HEADS)
def test_gradcheck(name):
    hidden, module, targets = draw()

    def function(h, w, b):
        module.weight, module.bias = w, b
        return logps(HEADS[name], h, module, targets, chunk=3)

    leaves = (hidden, module.weight, module.bias)
    assert torch.autograd.gradcheck(function, leaves)


def test_by_module_equals_fused():
    hidden, module, targets = draw()
    head = Head("module", scale=0.5, softcap=4.0)
    fused = Head("fused", scale=0.5, softcap=4.0)
    leaves = [hidden, *module.parameters()]
    one, other = logps(head, hidden, module, targets, 3), logps(fused, hidden, module, targets)
    torch.testing.assert_close(one, other, atol=1e-14, rtol=0)
    for a, b in zip(*(torch.autograd.grad(o.sum(), leaves) for o in (one, other)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-13, rtol=0)


def test_a_frozen_head_costs_no_weight_gradient():
    hidden, module, targets = draw()
    module.requires_grad_(False)
    logps(Head(), hidden, module, targets).sum().backward()
    assert module.weight.grad is None
    assert hidden.grad is not None


def test_the_weight_alone_can_be_trained():
    hidden, module, targets = draw()
    logps(Head(), hidden.detach(), module, targets).sum().backward()
    assert module.weight.grad is not None


def test_nothing_is_kept_without_gradient():
    hidden, module, targets = draw()
    with torch.no_grad():
        assert not logps(Head(), hidden, module, targets).requires_grad


def test_bf16_weights_still_give_float32_sums():
    """300 tokens of about −2: a sum in bf16 would be off by whole nats."""
    hidden, module, targets = draw(rows=300, width=32, vocabulary=400, dtype=torch.bfloat16)
    with torch.no_grad():
        out = logps(Head(), hidden, module, targets)
        expected = full(Head(), hidden.double(), module.double(), targets)
    assert out.dtype == torch.float32
    assert float((out.double() - expected).abs().max()) < 1e-5
    assert abs(float(out.double().sum() - expected.sum())) < 1e-3


def test_weight_gradient_is_summed_over_chunks_in_float32():
    """Summed in bf16 chunk by chunk, it would lose most of these equal contributions."""
    module = nn.Linear(1, 2, bias=False, dtype=torch.bfloat16)
    hidden = torch.ones(2048, 1, dtype=torch.bfloat16)
    logps(Head(), hidden, module, torch.zeros(2048, dtype=torch.long), chunk=1).sum().backward()
    with torch.no_grad():
        p = torch.softmax(module.weight.double()[:, 0], 0)
    torch.testing.assert_close(module.weight.grad[0, 0].double(), 2048 * (1 - p[0]), rtol=2**-8, atol=0)


def test_repeated_rows_have_a_deterministic_gradient():
    """The last prompt token predicts the first token of every response: its row repeats."""
    hidden = torch.randn(40, 64, requires_grad=True)
    module = nn.Linear(64, 50)
    rows, targets = torch.tensor([3] * 30 + list(range(40))), torch.randint(0, 50, (70,))

    def gradient():
        values = logps(Head(), hidden.index_select(0, rows), module, targets)
        return torch.autograd.grad(values.sum(), hidden)[0]

    first = gradient()
    assert all(torch.equal(gradient(), first) for _ in range(20))


def test_chunks_hold_some_million_logits():
    assert chunk_rows(100) == 1024
    assert chunk_rows(32_000) == 262
    assert chunk_rows(250_000) == 256


def test_select_logps_is_float32_for_bf16_logits():
    logits = torch.randn(4, 9).bfloat16()
    assert select_logps(logits, torch.zeros(4, dtype=torch.long)).dtype == torch.float32


@pytest.mark.parametrize(
    ("family", "changes", "expected"),
    [
        ("llama", {}, Head()),
        ("gemma2", {}, Head(softcap=30.0)),
        ("cohere", {}, Head(scale=0.0625)),
        ("granite", {}, Head(scale=0.25)),
        ("gptj", {}, Head()),  # a head with bias
        ("opt", {}, Head()),  # whose base model projects after its last layer
    ],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_transforms_are_found(make_model, family, changes, expected, dtype):
    assert find_head(make_model(family, dtype, **changes)) == expected


def test_an_unknown_transform_is_noticed(make_model, monkeypatch):
    """A soft cap that no configuration key declares: the model's own logits are used then."""
    model = make_model("llama")
    own = type(model).forward

    def capped(self, *args, **kwargs):
        out = own(self, *args, **kwargs)
        out.logits = 40 * torch.tanh(out.logits / 40)
        return out

    monkeypatch.setattr(type(model), "forward", capped)
    assert find_head(model) == Head("model")


def test_a_head_that_reads_something_else_is_noticed(make_model, monkeypatch):
    """MiniCPM divides hidden states before its head: neither scale nor soft cap of logits."""
    model = make_model("llama")
    head = type(model.lm_head).forward
    monkeypatch.setattr(model.lm_head, "forward", lambda h: head(model.lm_head, h))
    monkeypatch.setattr(model, "forward", lambda **kw: _divided(model, **kw))
    assert find_head(model) == Head("model")


def _divided(model, input_ids, use_cache):
    from types import SimpleNamespace

    return SimpleNamespace(logits=model.lm_head(model.base_model(input_ids=input_ids)[0] / 3))


def test_a_wrapped_head_is_called_as_a_module(make_model):
    """A subclass, as adapters and quantised layers are, computes more than its weight."""
    model = make_model("llama")

    class Wrapped(nn.Linear):
        pass

    model.lm_head.__class__ = Wrapped
    assert find_head(model) == Head("module")
