"""The choice of layout: a correct one is taken, a wrong one is refused, and nothing in the model changes."""

import copy

import peft
import pytest
import torch
import transformers
from torch import nn

from support.errors import raises
from tiltlm.core.errors import ModelError
from tiltlm.core.forest import pack_trees
from tiltlm.logprobs import policy, selfcheck
from tiltlm.logprobs.attention import hook
from tiltlm.logprobs.attention.layout import Layout
from tiltlm.logprobs.head.states import Head
from tiltlm.logprobs.module import stock_attention_name
from tiltlm.logprobs.plain import plain_logps
from tiltlm.logprobs.policy import PolicyModule
from tiltlm.logprobs.rounding import rounded
from tiltlm.logprobs.selfcheck import choose_layout, missing_attention, probe_trees


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gpt2", "mixtral", "gpt_oss"])
def test_sharing_is_chosen_where_it_is_right(make_model, family):
    choice = choose_layout(make_model(family, torch.float32))
    assert choice.layout == "shared"
    assert choice.max_error < 5e-7, "a float64 copy is compared; only rotations and sinks are float32"
    assert selfcheck.FLOOR <= choice.tolerance < 5e-6
    assert choice.is_exact
    assert choice.refused == ()
    assert "log-probabilities" in choice.reason


@pytest.mark.parametrize(("family", "hooked"), [("bloom", 0), ("gptj", 0), ("mamba", 0), ("qwen3_next", 1)])
def test_sharing_is_refused_where_the_hook_is_ignored(make_model, trees, family, hooked):
    """Such models still return numbers; the layout that is chosen instead is correct."""
    model = make_model(family, torch.float32)
    choice = choose_layout(model)
    assert choice.layout == "padded"
    assert [name for name, _ in choice.refused] == ["shared", "packed"]
    assert {why.code for _, why in choice.refused} == {"hook_unused"}
    assert all(f"{hooked} of {model.config.num_hidden_layers}" in why for _, why in choice.refused)
    assert all(why in choice.reason for _, why in choice.refused)
    with torch.no_grad():
        found = PolicyModule(model, choice.layout, head=choice.head)(pack_trees(trees)).token_logps
        torch.testing.assert_close(found, plain_logps(model, trees), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["bloom", "mamba"])
@pytest.mark.parametrize("layout", ["shared", "packed"])
def test_a_forced_layout_that_is_wrong_is_refused(make_model, family, layout):
    with raises(ModelError, "no_exact_layout", key="model.layout", mentions=[f"{layout}: 0 of 2", "layout=auto"]):
        choose_layout(make_model(family, torch.float32), layout)


@pytest.mark.parametrize("layout", ["shared", "packed", "padded"])
def test_a_forced_layout_that_is_right_is_taken(make_model, layout):
    assert choose_layout(make_model("llama", torch.float32), layout).layout == layout


class Leaking(nn.Module):
    """A feed-forward layer with a recurrence over the row, as in convolutions and state-space layers."""

    def __init__(self, inner, strength):
        super().__init__()
        self.inner, self.strength = inner, strength

    def forward(self, hidden):
        before = torch.nn.functional.pad(hidden, (0, 0, 1, 0))[:, :-1]
        return self.inner(hidden + self.strength * before)


@pytest.mark.parametrize("strength", [1.0, 1e-4])
def test_a_leak_between_responses_is_found(make_model, strength):
    """Every layer calls the hook, and yet sequences are not separate. Small leaks on small weights are found too."""
    model = make_model("llama", torch.float32)
    model.model.layers[0].mlp = Leaking(model.model.layers[0].mlp, strength)
    choice = choose_layout(model)
    assert choice.layout == "padded"
    assert dict(choice.refused)["shared"].code == "not_equal"
    assert choice.tolerance < 1e-5


class Scrambled(torch.autograd.Function):
    """The right value with the wrong gradient."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return 1.01 * grad


def test_a_wrong_gradient_is_found(make_model, monkeypatch):
    own = PolicyModule._rows

    def scrambled(self, inputs):
        rows, output = own(self, inputs)
        return Scrambled.apply(rows), output

    monkeypatch.setattr(PolicyModule, "_rows", scrambled)
    with raises(ModelError, "no_exact_layout", mentions=["shared: ", "packed: ", "padded: "]):
        choose_layout(make_model("llama", torch.float32))


def test_a_model_that_refuses_inputs_gives_its_reason(make_model, monkeypatch):
    model = make_model("llama", torch.float32)
    own = type(model.model).forward

    def forward(self, input_ids, attention_mask=None, use_cache=None):
        return own(self, input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)

    monkeypatch.setattr(type(model.model), "forward", forward)
    model.forward = lambda input_ids, use_cache: _logits(model, input_ids)
    choice = choose_layout(model)
    assert choice.layout == "padded"
    why = dict(choice.refused)["shared"]
    assert why.code == "fails"
    assert "TypeError" in why


def _logits(model, input_ids):
    from types import SimpleNamespace

    return SimpleNamespace(logits=model.lm_head(model.model(input_ids=input_ids)[0]))


def test_nothing_of_the_model_changes(make_model, monkeypatch):
    """Gradients, random state, modes, dtype and attention are the same, for a copy and for the model itself."""
    for small in (selfcheck.SMALL, 0):
        monkeypatch.setattr(selfcheck, "SMALL", small)
        model = make_model("llama", torch.float32).train()
        model.model.norm.eval()
        model.lm_head.weight.requires_grad_(False)
        model.model.norm.weight.grad = torch.ones_like(model.model.norm.weight)
        before = copy.deepcopy(model.state_dict())
        torch.manual_seed(7)
        choose_layout(model)
        drawn = torch.rand(3)
        torch.manual_seed(7)
        assert torch.equal(drawn, torch.rand(3))
        assert model.config._attn_implementation == "sdpa"
        assert model.training
        assert not model.model.norm.training
        assert not model.lm_head.weight.requires_grad
        assert all(torch.equal(before[k], v) and v.dtype == torch.float32 for k, v in model.state_dict().items())
        assert [n for n, p in model.named_parameters() if p.grad is not None] == ["model.norm.weight"]


def scaled(model, factor):
    """The model with larger matrices: rounding grows with them, and with depth."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(factor)
    return model


def as_it_is(monkeypatch):
    """Compare in float32, without a copy."""
    monkeypatch.setattr(selfcheck, "SMALL", 0)


LARGE = pytest.mark.parametrize(
    ("family", "factor", "changes"),
    [
        *((family, factor, {}) for family in ("llama", "gemma2", "gpt_oss") for factor in (1, 20)),
        *((family, 5, {"num_hidden_layers": 8}) for family in ("llama", "gemma2", "gpt_oss")),
    ],
)


@pytest.mark.parametrize("is_copied", [True, False])
@LARGE
def test_right_layouts_are_taken_at_every_scale_and_depth(make_model, monkeypatch, family, factor, changes, is_copied):
    """Float32 itself deviates from float64 by 1e-5 and more here."""
    if not is_copied:
        as_it_is(monkeypatch)
    model = scaled(make_model(family, torch.float32, **changes), factor)
    for layout in ("shared", "padded"):
        assert choose_layout(model, layout).is_exact


@pytest.mark.parametrize(("factor", "changes"), [(5, {}), (2, {"num_hidden_layers": 12})])
def test_recurrent_models_that_amplify_rounding_are_taken(make_model, monkeypatch, factor, changes):
    """Their float32 values deviate from float64 by 1e-6 to 1e-3."""
    as_it_is(monkeypatch)
    choice = choose_layout(scaled(make_model("mamba", torch.float32, **changes), factor))
    assert choice.layout == "padded"
    assert choice.tolerance < 1e-2


@pytest.mark.parametrize("is_copied", [True, False])
@LARGE
def test_wrong_layouts_are_refused_at_every_scale_and_depth(
    make_model, monkeypatch, family, factor, changes, is_copied
):
    """One token's state leaks into the next sequence; positions are shifted by one."""
    if not is_copied:
        as_it_is(monkeypatch)
    model = scaled(make_model(family, torch.float32, **changes), factor)
    own = selfcheck.arrange

    def shifted(forest, layout):
        inputs = own(forest, layout)
        if "position_ids" in inputs.keywords:
            positions = inputs.keywords["position_ids"]
            inputs.keywords["position_ids"] = positions + (positions > 2)
        return inputs

    with monkeypatch.context() as patch:
        patch.setattr(selfcheck, "arrange", shifted)
        choice = choose_layout(model)
        assert {name: why.code for name, why in choice.refused} == {"shared": "not_equal", "packed": "not_equal"}
    layers = model.model.layers
    layers[0].mlp = Leaking(layers[0].mlp, 0.01)
    choice = choose_layout(model)
    assert {name: why.code for name, why in choice.refused} == {"shared": "not_equal", "packed": "not_equal"}


@pytest.mark.parametrize("is_copied", [True, False])
def test_a_missing_soft_cap_is_found(make_model, monkeypatch, is_copied):
    if not is_copied:
        as_it_is(monkeypatch)
    model = scaled(make_model("gemma2", torch.float32), 5)
    monkeypatch.setattr(selfcheck, "find_head", lambda model: Head("fused"))
    with raises(ModelError, "no_exact_layout", mentions=["shared: ", "packed: ", "padded: "]):
        choose_layout(model)


def test_rounding_that_hides_everything_is_no_excuse(make_model, monkeypatch):
    """Where float32 deviates from itself by a tenth, nothing can be verified; it can only be forced."""
    as_it_is(monkeypatch)
    model = scaled(make_model("mamba", torch.float32, num_hidden_layers=24), 5)
    with raises(ModelError, "no_exact_layout", mentions=["model.layout=padded"]):
        choose_layout(model)
    assert not choose_layout(model, "padded").is_exact


@pytest.mark.parametrize("layout", ["shared", "packed"])
def test_a_forced_layout_that_deviates_is_taken_and_says_so(make_model, layout):
    model = make_model("llama", torch.float32)
    own = model.model.layers[0].mlp
    model.model.layers[0].mlp = Leaking(own, 0.05)
    choice = choose_layout(model, layout)
    assert (choice.layout, choice.is_exact) == (layout, False)
    assert 1e-3 < choice.max_error < selfcheck.MOST_FORCED
    assert f"{choice.max_error:.0e}" in choice.reason
    model.model.layers[0].mlp = Leaking(own, 100.0)
    with raises(ModelError, "no_exact_layout", key="model.layout", mentions=["layout=auto"]):
        choose_layout(model, layout)


def one_sequence(monkeypatch):
    """Lay out every packed row as one sequence: each token attends to all before it, as if there were one example."""
    own = selfcheck.arrange

    def leaky(forest, layout):
        inputs = own(forest, layout)
        if layout != "padded":
            inputs.keywords["layout"] = Layout((inputs.keywords["input_ids"].shape[1],), ((),))
        return inputs

    monkeypatch.setattr(selfcheck, "arrange", leaky)


@pytest.mark.parametrize("layout", ["shared", "packed"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_oss"])
@pytest.mark.parametrize(
    ("factor", "is_copied"),
    [*((factor, True) for factor in (0.01, 0.1, 0.3, 1)), *((factor, False) for factor in (0.1, 0.3, 1))],
)
def test_a_forced_layout_in_which_sequences_see_each_other_is_refused_at_every_scale(
    make_model, monkeypatch, family, factor, layout, is_copied
):
    """With small weights its values deviate by far less than `MOST_FORCED`."""
    if not is_copied:
        as_it_is(monkeypatch)
    model = scaled(make_model(family, torch.float32), factor)
    assert choose_layout(model, layout).is_exact
    one_sequence(monkeypatch)
    with raises(ModelError, "no_exact_layout", key="model.layout", mentions=[f"{layout}: off by"]):
        choose_layout(model, layout)


def test_a_deviation_by_rounding_is_no_leak(make_model, monkeypatch):
    """In bfloat16 with small weights, rounding changes values by a good part of what another context changes."""
    model = scaled(make_model("llama", torch.bfloat16), 0.1)
    as_it_is(monkeypatch)
    probe, expected = selfcheck._own(model, is_scorer=False)
    probe.tolerance(expected)
    with rounded(model):
        noisy = probe.plain()
    assert noisy.value_error(expected) > selfcheck.MOST_LEAKED * probe.context_effect(expected)
    assert not probe.leaks(noisy, expected)


@pytest.mark.parametrize(
    ("module", "name"),
    [(selfcheck, "plain_logps"), (selfcheck, "arrange"), (policy, "token_values"), (hook, "_one_dtype")],
)
def test_our_own_mistakes_are_no_reason_for_another_layout(make_model, monkeypatch, module, name):
    """In the forward of the model too, which calls our attention."""
    monkeypatch.setattr(module, name, None)
    with pytest.raises(TypeError):
        choose_layout(make_model("llama", torch.float32))


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "gpt_oss"])
def test_adapters_on_experts_are_compared_as_they_train(make_model, family):
    """PEFT computes another gradient of the adapter where the experts themselves have one too."""
    model = make_model(family, torch.float32)
    experts = sorted({".".join(name.split(".")[-2:]) for name, p in model.named_parameters() if p.ndim == 3})
    assert experts
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(r=2, target_modules=[], target_parameters=experts, task_type="CAUSAL_LM")
    )
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    choice = choose_layout(adapted)
    assert (choice.layout, choice.is_exact) == ("shared", True)


def test_weights_that_a_forward_changes_are_refused():
    """RWKV divides its own weights by 2 every six layers in evaluation mode."""
    sizes = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 7, "attention_hidden_size": 32}
    torch.manual_seed(0)
    model = transformers.RwkvForCausalLM(transformers.RwkvConfig(**sizes)).eval()
    with raises(ModelError, "changes_weights", mentions=["rescale_every"]):
        choose_layout(model)
    model.config.rescale_every = 0
    assert choose_layout(model).layout == "padded"


def test_large_models_are_compared_as_they_are(make_model, monkeypatch):
    monkeypatch.setattr(selfcheck, "SMALL", 0)
    monkeypatch.setattr(selfcheck, "MEASURED", 5000)
    choice = choose_layout(make_model("llama", torch.float32))
    assert choice.layout == "shared"
    assert choice.tolerance < 1e-5
    leaking = make_model("llama", torch.float32)
    leaking.model.layers[0].mlp = Leaking(leaking.model.layers[0].mlp, 1.0)
    assert choose_layout(leaking).layout == "padded"


@pytest.mark.parametrize("is_copied", [True, False])
@pytest.mark.parametrize("wrong", ["eager", "sdpa"])
def test_a_wrong_stock_attention_excuses_nothing(make_model, monkeypatch, wrong, is_copied):
    """The tolerance is that of rounding, whichever of transformers' two attentions is wrong, or both differ."""
    if not is_copied:
        as_it_is(monkeypatch)
    model = make_model("llama", torch.float32)
    assert model.config._attn_implementation == "sdpa"
    own = type(model.model.layers[0].self_attn).forward

    def forward(self, *args, **kwargs):
        out, weights = own(self, *args, **kwargs)
        return (1.5 * out if self.config._attn_implementation == wrong else out), weights

    monkeypatch.setattr(type(model.model.layers[0].self_attn), "forward", forward)
    choice = choose_layout(model)
    assert choice.tolerance < 1e-5
    if wrong == "eager":  # nothing is compared with it
        assert (choice.layout, choice.refused) == ("shared", ())
    else:
        assert choice.layout == "padded"
        assert {name: why.code for name, why in choice.refused} == {"shared": "not_equal", "packed": "not_equal"}


def test_frozen_models_are_compared_in_values(make_model, monkeypatch):
    monkeypatch.setattr(selfcheck, "SMALL", 0)
    model = make_model("llama", torch.float32).requires_grad_(False)
    assert choose_layout(model).layout == "shared"


def test_bf16_weights_are_compared_too(make_model):
    assert choose_layout(make_model("llama", torch.bfloat16)).layout == "shared"


def test_the_probe_reaches_beyond_a_window(make_model):
    model = make_model("mistral")
    lengths = [len(tree.prompt_ids) for tree in probe_trees(model.config)]
    assert max(lengths) > model.config.sliding_window
    assert any(len(r.token_ids) == 1 for tree in probe_trees(model.config) for r in tree.responses)


def test_the_probe_fits_learned_positions(make_model):
    model = make_model("gpt2", torch.float32, n_positions=12)
    assert choose_layout(model).layout == "shared"


def config_of(**fields):
    from types import SimpleNamespace

    return SimpleNamespace(num_hidden_layers=2, **fields)


@pytest.mark.parametrize(
    ("config", "windows", "code"),
    [
        (config_of(), [None, None], None),
        (config_of(), [None], "hook_unused"),
        (config_of(), [], "hook_unused"),
        (config_of(), [None] * 3, "hook_unused"),
        (config_of(), [None] * 4, None),  # two calls per layer, as in differential attention
        (config_of(sliding_window=4096), [4096] * 4, None),
        (config_of(sliding_window=4096), [4096, 4096, 4096, None], "windows"),
        (config_of(sliding_window=4096), [4096, 4096], None),
        (config_of(sliding_window=4096), [None, None], "windows"),
        (config_of(sliding_window=4096, use_sliding_window=False), [None, None], None),
        (config_of(layer_types=["sliding_attention", "full_attention"], sliding_window=8), [8, None], None),
        (config_of(layer_types=["sliding_attention", "full_attention"], sliding_window=8), [None, None], "windows"),
        (config_of(layer_types=["chunked_attention", "full_attention"]), [None, None], "layer_kinds"),
        (config_of(layer_types=["conv", "full_attention"]), [None, None], "layer_kinds"),
    ],
)
def test_windows_longer_than_any_probe_are_counted(config, windows, code):
    """A short probe cannot exceed a window of 4,096. What can be checked is that the hook gets the window."""
    found = missing_attention(config, windows)
    assert (found.code if found else None) == code
    if code == "layer_kinds":
        assert config.layer_types[0] in found


def test_stock_attention_of_capped_scores_is_explicit(make_model):
    assert stock_attention_name(make_model("gemma2")) == "eager"
    assert stock_attention_name(make_model("llama")) == "sdpa"


def test_a_model_that_looks_ahead_is_refused():
    """XLM is bidirectional by default and masks padding itself, so padded rows equal separate ones.

    And yet the "log-probability" of a token depends on that token.
    """
    torch.manual_seed(0)
    sizes = {"vocab_size": 61, "emb_dim": 32, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 128}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "pad_index": 0}
    both_ways = transformers.XLMWithLMHeadModel(transformers.XLMConfig(**sizes, **special)).eval()
    with raises(ModelError, "not_causal", mentions=["XLMWithLMHeadModel"]):
        choose_layout(both_ways)
    forwards = transformers.XLMWithLMHeadModel(transformers.XLMConfig(**sizes, **special, causal=True)).eval()
    assert choose_layout(forwards).layout == "padded"


def test_a_small_leak_ahead_is_found(make_model):
    """1e-4 of the next token's embedding is added."""
    model = make_model("llama", torch.float32)
    own = model.model.embed_tokens.forward
    model.model.embed_tokens.forward = lambda ids: own(ids) + 1e-4 * own(ids.roll(-1, dims=-1))
    with raises(ModelError, "not_causal", mentions=["LlamaForCausalLM"]):
        choose_layout(model)


def test_a_model_without_float64_is_compared_in_its_own(make_model, monkeypatch):
    """XGLM fails in float64: it fills scores with the least number of another dtype."""
    model = make_model("llama", torch.float32)
    own = type(model.model).forward

    def forward(self, *args, **kwargs):
        if self.dtype == torch.float64:
            raise RuntimeError("value cannot be converted to type float without overflow")
        return own(self, *args, **kwargs)

    monkeypatch.setattr(type(model.model), "forward", forward)
    choice = choose_layout(model)
    assert choice.layout == "shared"
    assert choice.max_error > 1e-8, "compared in float32"
    assert model.config._attn_implementation == "sdpa"


def test_a_model_that_computes_nothing_is_refused_with_its_reason(make_model, monkeypatch):
    model = make_model("llama", torch.float32)

    def forward(self, *args, **kwargs):
        raise ValueError("Input language unknown.\nSet one.")

    monkeypatch.setattr(type(model.model), "forward", forward)
    reason = "ValueError: Input language unknown."
    with raises(ModelError, "forward_fails", mentions=["LlamaForCausalLM", reason]) as refusal:
        choose_layout(model)
    assert "Set one." not in str(refusal.value), "its first line only"
