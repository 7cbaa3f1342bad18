"""More than one number per token: values against dense numpy, gradients against dense autograd, whatever the route."""

import numpy as np
import pytest
import torch
from torch import nn

from support.errors import raises
from tiltlm.core.errors import ConfigError, ModelError
from tiltlm.core.forest import pack_trees
from tiltlm.logprobs.head import token_values as chunked
from tiltlm.logprobs.head.find import Head
from tiltlm.logprobs.head.states import States, affine
from tiltlm.logprobs.head.token_values import token_values
from tiltlm.logprobs.module import stock_attention_name
from tiltlm.logprobs.policy import PolicyModule

ALL = frozenset({"log_collisions", "entropies", "ref_kls", "ref_entropy_shares"})
HEADS = {"plain": Head(), "scaled": Head(scale=0.25), "capped": Head(softcap=3.0), "both": Head(scale=2.0, softcap=3.0)}
ROUTES = ("fused", "module", "model")
ROWS, WIDTH, VOCABULARY = 7, 5, 11


def draw(seed=0, bias=True):
    """Hidden rows, a head and targets, in float64; different ones for different seeds."""
    generator = torch.Generator().manual_seed(seed)
    module = nn.Linear(WIDTH, VOCABULARY, bias=bias, dtype=torch.float64)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    hidden = torch.randn(ROWS, WIDTH, dtype=torch.float64, generator=generator).requires_grad_()
    return hidden, module, torch.randint(0, VOCABULARY, (ROWS,), generator=generator)


def transformed(head, hidden, module):
    logits = module(hidden) * head.scale
    return logits if head.softcap is None else head.softcap * torch.tanh(logits / head.softcap)


def reference_states(head=HEADS["both"], bias=True):
    """A reference with states, head and transforms of its own, and its dense logits."""
    hidden, module, _ = draw(seed=1, bias=bias)
    hidden, module = hidden.detach(), module.requires_grad_(False)
    return States(hidden, module.weight, module.bias, head), transformed(head, hidden, module)


def route_values(route, head, hidden, module, targets, extras, beside, chunk=None):
    """Values by one of the routes; route `model` reads logits."""
    head = Head(route, head.scale, head.softcap)
    if route == "model":
        return token_values(Head("model"), transformed(head, hidden, module), module, targets, extras, beside, chunk)
    return token_values(head, hidden, module, targets, extras, beside, chunk)


def dense(own, theirs, targets):
    """All values from whole logits, by autograd."""
    p, q = torch.log_softmax(own, -1), torch.log_softmax(theirs, -1)
    return p.gather(1, targets[:, None])[:, 0], (q.exp() * (q - p)).sum(-1)


def by_hand(logits):
    """Probabilities of each row, in numpy."""
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", HEADS)
def test_values_by_hand(route, name):
    hidden, module, targets = draw()
    beside, theirs = reference_states()
    found = route_values(route, HEADS[name], hidden, module, targets, ALL, beside, chunk=3)
    p = by_hand(transformed(HEADS[name], hidden, module).detach().numpy())
    q = by_hand(theirs.numpy())
    rows = np.arange(ROWS)
    expected = {
        "logps": np.log(p[rows, targets]),
        "log_collisions": np.log((p**2).sum(-1)),
        "entropies": -(p * np.log(p)).sum(-1),
        "ref_logps": np.log(q[rows, targets]),
        "ref_kls": (q * np.log(q / p)).sum(-1),
        "ref_entropy_shares": -(q * np.log(q)).sum(-1) / np.log(q.shape[-1]),
    }
    for key, value in expected.items():
        np.testing.assert_allclose(getattr(found, key).detach().numpy(), value, atol=1e-13, rtol=1e-12, err_msg=key)
    differentiable = {key for key in expected if getattr(found, key).requires_grad}
    assert differentiable == {"logps", "ref_kls"}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("keep_bytes", [0, 2**30])
def test_gradients_equal_those_of_dense_logits(monkeypatch, route, name, bias, chunk, keep_bytes):
    monkeypatch.setattr(chunked, "KEEP_BYTES", keep_bytes)
    hidden, module, targets = draw(bias=bias)
    beside, theirs = reference_states(bias=not bias)
    weights = torch.randn(2, ROWS, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    leaves = [hidden, *module.parameters()]
    found = route_values(route, HEADS[name], hidden, module, targets, ALL, beside, chunk)
    expected = dense(transformed(HEADS[name], hidden, module), theirs, targets)
    for used in ([0, 1], [0], [1]):
        losses = [
            sum((weights[i] * values[i]).sum() for i in used) for values in ((found.logps, found.ref_kls), expected)
        ]
        gradients = (torch.autograd.grad(loss, leaves, retain_graph=True) for loss in losses)
        for a, b in zip(*gradients, strict=True):
            torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-11)


@pytest.mark.parametrize("route", ["fused", "module"])
@pytest.mark.parametrize("name", HEADS)
def test_gradcheck(route, name):
    hidden, module, targets = draw()
    beside, _ = reference_states()

    def values(h, w, b):
        module.weight, module.bias = w, b
        found = route_values(route, HEADS[name], h, module, targets, ALL, beside, chunk=3)
        return found.logps, found.ref_kls

    assert torch.autograd.gradcheck(values, (hidden, module.weight, module.bias))


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("extra", sorted(ALL))
def test_each_extra_alone_is_the_same_number(route, extra):
    """Extras that are not requested are absent. An extra changes no log-probability and no gradient."""
    hidden, module, targets = draw()
    beside, _ = reference_states()
    whole = route_values(route, HEADS["both"], hidden, module, targets, ALL, beside)
    alone = route_values(route, HEADS["both"], hidden, module, targets, frozenset({extra}), beside)
    present = {name for name, value in alone._asdict().items() if value is not None}
    assert present == {"logps", extra} | ({"ref_logps"} if extra.startswith("ref_") else set())
    assert all(torch.equal(getattr(alone, name), getattr(whole, name)) for name in present)
    plain = route_values(route, HEADS["both"], hidden, module, targets, frozenset(), None)
    assert torch.equal(plain.logps, alone.logps)
    gradients = [torch.autograd.grad(v.logps.sum(), hidden)[0] for v in (plain, alone)]
    torch.testing.assert_close(*gradients, atol=1e-14, rtol=0)


@pytest.mark.parametrize("route", ROUTES)
def test_no_gradient_reaches_the_reference(route):
    hidden, module, targets = draw()
    beside, _ = reference_states()
    beside.rows.requires_grad_()
    beside.weight.requires_grad_()
    found = route_values(route, Head(), hidden, module, targets, ALL, beside)
    leaves = (beside.rows, beside.weight)
    assert torch.autograd.grad(found.ref_kls.sum() + found.logps.sum(), leaves, allow_unused=True) == (None, None)
    assert not found.ref_logps.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_a_policy_beside_itself_has_no_divergence(head, dtype):
    """It is exactly 0: the same chunks of the same products. The gradient is 0 up to the rounding of π − π_ref."""
    hidden, module, targets = draw()
    hidden, module = hidden.detach().to(dtype).requires_grad_(), module.to(dtype)
    beside = States(hidden.detach(), module.weight.detach(), module.bias.detach(), head)
    found = token_values(head, hidden, module, targets, ALL, beside, chunk=3)
    assert torch.equal(found.ref_kls, torch.zeros_like(found.ref_kls))
    assert torch.equal(found.ref_logps, found.logps)
    torch.testing.assert_close(found.ref_entropy_shares, found.entropies / np.log(len(module.weight)))
    for gradient in torch.autograd.grad(found.ref_kls.sum(), (hidden, module.weight, module.bias)):
        assert torch.equal(gradient, torch.zeros_like(gradient))


def test_a_divergence_is_positive_and_vanishes_quadratically():
    """KL(π_ref‖π) ≈ ½ Var_ref(δ) for logits moved by δ."""
    hidden, module, targets = draw()
    logits = module(hidden).detach()
    beside = States(logits, None, None, Head())
    step = torch.randn(logits.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    p = torch.softmax(logits, -1)
    curvature = 0.5 * ((p * step**2).sum(-1) - (p * step).sum(-1) ** 2)
    for size in (1.0, 1e-2, 1e-3):
        found = token_values(Head("model"), logits + size * step, module, targets, frozenset({"ref_kls"}), beside)
        assert bool((found.ref_kls > 0).all())
    torch.testing.assert_close(found.ref_kls / size**2, curvature, rtol=1e-2, atol=0)


def test_limits_of_uniform_and_certain_distributions():
    """log V nats and 1/V where all tokens are alike, 0 nats and 1 where one is certain; no 0 · ∞ anywhere."""
    uniform, certain = torch.zeros(2, VOCABULARY), torch.full((2, VOCABULARY), -torch.inf)
    certain[:, 4] = 0.0
    targets = torch.tensor([4, 4])

    def values(own, theirs):
        return token_values(Head("model"), own, nn.Identity(), targets, ALL, States(theirs, None, None, Head()))

    log_v = torch.full((2,), VOCABULARY).log()
    spread, sure = values(uniform, certain), values(certain, certain)
    torch.testing.assert_close(spread.entropies, log_v)
    torch.testing.assert_close(spread.log_collisions, -log_v)
    torch.testing.assert_close(spread.ref_kls, log_v)  # a certain reference costs −log π of its token
    for name in ("logps", "log_collisions", "entropies", "ref_kls", "ref_entropy_shares"):
        assert torch.equal(getattr(sure, name), torch.zeros(2)), name
    assert torch.equal(values(certain, uniform).ref_kls, torch.full((2,), torch.inf))


@pytest.mark.parametrize("route", ["fused", "module"])
@pytest.mark.parametrize("extras", [frozenset(), ALL])
def test_no_rows_times_vocabulary_is_kept_for_the_backward(monkeypatch, route, extras):
    """Where logits exceed the budget, only rows, heads and a few numbers per row are kept."""
    monkeypatch.setattr(chunked, "KEEP_BYTES", 0)
    rows, vocabulary, chunk, width = 64, 200, 4, 3
    module = nn.Linear(width, vocabulary)
    hidden = torch.randn(rows, width, requires_grad=True)
    beside = States(torch.randn(rows, width), torch.randn(vocabulary, width), None, Head())
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        values = token_values(Head(route), hidden, module, torch.zeros(rows, dtype=torch.long), extras, beside, chunk)
        del values
    assert saved
    assert max(saved) <= max(rows * width, vocabulary * width)
    assert sum(saved) < rows * vocabulary / 2


def test_bf16_weights_still_give_float32_values():
    torch.manual_seed(0)
    module = nn.Linear(32, 400, dtype=torch.bfloat16)
    hidden, theirs = (torch.randn(20, 32, dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
    beside = States(theirs.detach(), module.weight.detach(), None, Head())
    targets = torch.zeros(20, dtype=torch.long)
    found = token_values(Head(), hidden, module, targets, ALL, beside)
    assert {value.dtype for value in found} == {torch.float32}
    p, q = (h.double() @ module.weight.double().T for h in (hidden, theirs))
    _, kls = dense(p + module.bias.double(), q, targets)
    torch.testing.assert_close(found.ref_kls.double(), kls, atol=1e-5, rtol=0)


def test_states_of_the_reference_are_not_changed(monkeypatch):
    """Chunks are changed in place, but not the logits of a reference with a head of unknown shape."""
    monkeypatch.setattr(chunked, "KEEP_BYTES", 0)
    hidden, module, targets = draw()
    logits = module(hidden.detach()).detach() + 1
    beside = States(logits, None, None, Head())
    found = token_values(Head(), hidden, module, targets, ALL, beside, chunk=3)
    found.ref_kls.sum().backward()
    assert torch.equal(logits, module(hidden).detach() + 1)


def test_an_extra_about_the_reference_needs_one():
    hidden, module, targets = draw()
    with raises(
        ConfigError,
        "needs_reference_weights",
        key="reference.name",
        mentions=["ref_entropy_shares", "ref_kls", "initial", "base"],
    ):
        token_values(Head(), hidden, module, targets, frozenset({"ref_kls", "ref_entropy_shares"}))


@pytest.mark.parametrize("route", ROUTES)
def test_another_vocabulary_has_no_divergence(route):
    hidden, module, targets = draw()
    beside = States(hidden.detach(), torch.zeros(VOCABULARY + 2, WIDTH).double(), None, Head())
    with raises(ModelError, "other_vocabulary", key="reference.name", mentions=["13", "11"]):
        route_values(route, Head(), hidden, module, targets, ALL, beside)


def test_a_head_is_known_from_its_values():
    _, module, _ = draw()
    weight, bias = affine(module, WIDTH)
    torch.testing.assert_close(weight, module.weight.detach(), atol=1e-15, rtol=0)
    assert torch.equal(bias, module.bias.detach())


# Whole models ---------------------------------------------------------------------------------------------------------


def dense_logits(model, trees):
    """The model's logits for every scored token, each sequence alone under stock attention."""
    model.set_attn_implementation(stock_attention_name(model))
    rows = []
    for tree in trees:
        for response in tree.responses:
            ids = torch.tensor([*tree.prompt_ids, *response.token_ids])
            rows.append(model(input_ids=ids[None, :-1], use_cache=False).logits[0, len(tree.prompt_ids) - 1 :])
    return torch.cat(rows).double()


def other_than(model, make_model, family, **changes):
    """The same architecture with other weights."""
    other = make_model(family, **changes)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))
    return other.requires_grad_(False)


@pytest.mark.parametrize(
    ("family", "layout"),
    [(f, layout) for f in ("llama_tied", "gemma2", "cohere") for layout in ("shared", "packed", "padded")]
    + [("gptj", "padded")],
)
def test_every_layout_equals_separate_dense_forwards(make_model, trees, weights, gradients, close, family, layout):
    """Tied, soft-capped, scaled, with bias (gptj, which ignores the attention hook)."""
    model = make_model(family)
    other = other_than(model, make_model, family)
    forest = pack_trees(trees)
    targets = forest.targets
    own, theirs = dense_logits(model, trees), dense_logits(other, trees)
    _, kls = dense(own, theirs, targets)
    expected_gradients = gradients(model, (kls * weights).sum())
    responses = PolicyModule(model, layout)(forest, ALL, PolicyModule(other, layout).states(forest))
    p, q = by_hand(own.detach().numpy()), by_hand(theirs.numpy())
    found = {name: responses.extra(name).detach().numpy() for name in ALL}
    np.testing.assert_allclose(found["log_collisions"], np.log((p**2).sum(-1)), atol=1e-5)
    np.testing.assert_allclose(found["entropies"], -(p * np.log(p)).sum(-1), atol=1e-5)
    np.testing.assert_allclose(found["ref_kls"], (q * np.log(q / p)).sum(-1), atol=1e-6)
    np.testing.assert_allclose(found["ref_entropy_shares"], -(q * np.log(q)).sum(-1) / np.log(q.shape[-1]), atol=1e-5)
    np.testing.assert_allclose(responses.ref_token_logps, np.log(q[range(len(q)), targets]), atol=1e-6)
    assert kls.min() > 1e-4
    assert close(gradients(model, (responses.extra("ref_kls") * weights).sum()), expected_gradients, 1e-6)


def test_extras_are_absent_where_nobody_asks(make_model, trees):
    responses = PolicyModule(make_model("llama"))(pack_trees(trees))
    assert responses.extras == {}
    assert responses.ref_token_logps is None


@pytest.mark.parametrize("own_route", ["fused", "model"])
@pytest.mark.parametrize("ref_route", ["fused", "model"])
def test_heads_of_unknown_shape_on_either_side(make_model, trees, gradients, close, own_route, ref_route):
    """From the models' own logits; a row that predicts tokens of several responses repeats."""
    model = make_model("llama")
    reference = PolicyModule(other_than(model, make_model, "llama"), head=Head(ref_route))
    forest = pack_trees(trees)
    fused = PolicyModule(model)(forest, ALL, PolicyModule(reference.model).states(forest))
    found = PolicyModule(model, head=Head(own_route))(forest, ALL, reference.states(forest))
    for name in ALL:
        torch.testing.assert_close(found.extra(name), fused.extra(name), atol=1e-12, rtol=0)
    assert close(gradients(model, found.extra("ref_kls").sum()), gradients(model, fused.extra("ref_kls").sum()), 1e-12)


def test_adapters_on_the_head_are_off_on_the_references_side(make_model, trees, weights, gradients, close):
    """The reference is the policy without adapters: states with adapters off, the forward with adapters on."""
    base = make_model("gemma2", tie_word_embeddings=False)
    theirs = dense_logits(base, trees).detach()
    peft = pytest.importorskip("peft")
    adapter = peft.LoraConfig(r=2, target_modules=["q_proj", "lm_head"], init_lora_weights=False, task_type="CAUSAL_LM")
    model = peft.get_peft_model(base, adapter).double()
    _, kls = dense(dense_logits(base, trees), theirs, pack_trees(trees).targets)
    expected = gradients(model, (kls * weights).sum())
    module = PolicyModule(model)
    assert module.head.route == "module"
    with module.adapters_disabled():
        beside = module.states(pack_trees(trees))
    found = module(pack_trees(trees), frozenset({"ref_kls"}), beside).extra("ref_kls")
    torch.testing.assert_close(found, kls.detach(), atol=1e-6, rtol=0)
    assert kls.min() > 1e-4
    assert close(gradients(model, (found * weights).sum()), expected, 1e-6)


def test_states_carry_no_gradient(make_model, trees):
    module = PolicyModule(make_model("llama"))
    states = module.states(pack_trees(trees))
    assert not any(t.requires_grad for t in (states.rows, states.weight))
    assert states.weight.data_ptr() == module.get_output_embeddings().weight.data_ptr(), "no copy of the head"
