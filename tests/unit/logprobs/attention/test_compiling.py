"""Compiled layers: the same values and gradients, and one compilation for all layouts and lengths.

The compiler's back ends are torch's "aot_eager", which traces and differentiates as for real and writes no kernels, and
"eager", which traces only.
"""

import copy

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from support.errors import raises
from tiltlm.core.errors import ModelError
from tiltlm.core.example import Response
from tiltlm.core.forest import Tree, pack_trees
from tiltlm.logprobs.attention.last_layer import decoder_layers
from tiltlm.logprobs.checkpointing import enable_checkpointing
from tiltlm.logprobs.policy import PolicyModule
from tiltlm.models.loading import load_policy
from tiltlm.models.model_settings import ModelSettings

pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace"),
]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def drawn(number):
    """Random trees: other lengths and another layout for each number."""
    rng = np.random.default_rng(number)

    def draw(most):
        return rng.integers(3, 61, rng.integers(1, most)).astype(np.int32)

    return [Tree(draw(20), tuple(Response(draw(12)) for _ in range(rng.integers(1, 4)))) for _ in range(3)]


def measure(module, number):
    """Values and gradients of one forest."""
    logps = module(pack_trees(drawn(number))).token_logps
    trained = [p for p in module.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(logps.square().sum(), trained, allow_unused=True)
    return [logps.detach(), *(g for g in gradients if g is not None)]


def with_adapter(model):
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "up_proj"]))


def with_checkpoints(model):
    enable_checkpointing(model)
    return model


CASES = {
    "llama": ("llama", "shared", lambda model: model, "aot_eager"),
    "windows": ("gemma3", "shared", lambda model: model, "eager"),
    "packed": ("llama", "packed", lambda model: model, "eager"),
    "padded": ("llama", "padded", lambda model: model, "eager"),
    "adapter": ("llama", "shared", with_adapter, "eager"),
    "checkpoints": ("llama", "shared", with_checkpoints, "aot_eager"),
}


@pytest.mark.parametrize("case", CASES)
def test_equal_values_and_gradients_and_no_compilation_after_the_first(make_model, case):
    family, layout, change, backend = CASES[case]
    module = PolicyModule(
        change(make_model(family, torch.float32, num_hidden_layers=3 if family == "llama" else 6)), layout
    )
    expected = [measure(module, number) for number in range(6)]
    module.compile_layers(backend)
    compiled = []
    for number in range(6):
        for one, other in zip(measure(module, number), expected[number], strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
        compiled.append(counters["stats"]["unique_graphs"])
    assert compiled[0] > 0
    assert set(compiled[1:]) == {compiled[0]}


def test_one_compilation_serves_all_layers(make_model):
    graphs = []
    for num_layers in (3, 7):
        torch._dynamo.reset()
        counters.clear()
        module = PolicyModule(make_model("llama", torch.float32, num_hidden_layers=num_layers))
        module.compile_layers("eager")
        measure(module, 0)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] == graphs[1] > 0


def test_a_copy_is_compiled_too(make_model):
    """A reference keeps such a copy. The copy compiles its own layers, not those of the original."""
    module = PolicyModule(make_model("llama", torch.float32, num_hidden_layers=3))
    expected = measure(module, 0)
    module.compile_layers("eager")
    twin = copy.deepcopy(module)
    assert counters["stats"]["unique_graphs"] == 0
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    for one, other in zip(measure(twin, 0), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    assert counters["stats"]["unique_graphs"] > 0


def test_stock_attention_runs_uncompiled(make_model):
    module = PolicyModule(make_model("llama", torch.float32, num_hidden_layers=3))
    ids = torch.arange(5)[None]
    with module.stock_attention():
        expected = module.bare_model.generate(ids, max_new_tokens=4, do_sample=False)
    module.compile_layers("eager")
    with module.stock_attention():
        assert torch.equal(module.bare_model.generate(ids, max_new_tokens=4, do_sample=False), expected)
    assert counters["stats"]["unique_graphs"] == 0
    measure(module, 0)
    assert counters["stats"]["unique_graphs"] > 0


def test_the_last_layer_keeps_its_hooks(make_model):
    """Its submodules get fewer tokens than the layer, which a compiled layer would not allow."""
    module = PolicyModule(make_model("llama", torch.float32, num_hidden_layers=3))
    module.compile_layers("eager")
    *others, last = decoder_layers(module.bare_model)
    assert last._compiled_call_impl is None
    assert all(layer._compiled_call_impl is not None for layer in others)


def test_a_model_without_named_layers_is_refused(make_model):
    module = PolicyModule(make_model("llama", torch.float32, num_hidden_layers=1))
    with raises(ModelError, "not_supported", key="model.compile", mentions=["LlamaForCausalLM"]):
        module.compile_layers("eager")


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # torch's own, as its compiler loads
def test_the_setting_compiles_and_says_so(make_model, write_tokenizer, tmp_path):
    make_model("llama", torch.float32, num_hidden_layers=3).save_pretrained(tmp_path)
    write_tokenizer(tmp_path, eos_token="</s>", pad_token="<pad>")
    policy = load_policy(ModelSettings(path=str(tmp_path), compile=True), device="cpu")
    assert "compiled" in {note.code for note in policy.notes}
    assert decoder_layers(policy.module.bare_model)[0]._compiled_call_impl is not None
    policy = load_policy(ModelSettings(path=str(tmp_path)), device="cpu")
    assert "compiled" not in {note.code for note in policy.notes}
    assert decoder_layers(policy.module.bare_model)[0]._compiled_call_impl is None
