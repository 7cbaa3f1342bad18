"""On a CUDA device: the routes of attention, compiled layers, float32 accumulation in the head, and no waiting."""

import contextlib

import numpy as np
import pytest
import torch

from tiltlm.core.example import Response, token_ids
from tiltlm.core.forest import Tree, pack_trees
from tiltlm.core.views import Pairs
from tiltlm.logprobs.attention.routes import Case, route_of
from tiltlm.logprobs.head.find import Head
from tiltlm.logprobs.head.token_values import token_values
from tiltlm.logprobs.plain import plain_logps
from tiltlm.logprobs.policy import PolicyModule
from tiltlm.logprobs.selfcheck import choose_layout
from tiltlm.models.loading import load_policy
from tiltlm.models.model_settings import ModelSettings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    # torch and Triton give warnings about themselves while they compile.
    pytest.mark.filterwarnings("default"),
]


@pytest.fixture
def trees(trees):
    """A row that is long enough for the flex kernel."""
    return trees * 6


def case(**changes):
    usual = {"heads": 4, "groups": 2, "width": 64, "value_width": 64, "scale": 0.125, "softcap": None}
    return Case(**{"device": torch.device("cuda", 0), "dtype": torch.bfloat16, "has_sinks": False, **usual, **changes})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "one variable-length call"),
        ({"dtype": torch.float16}, "one variable-length call"),
        ({"dtype": torch.float32}, "one flex call"),
        ({"softcap": 20.0}, "one flex call"),
        ({"has_sinks": True}, "one flex call"),
        ({"value_width": 32}, "one flex call"),
        ({"dtype": torch.float64}, "segment by segment"),
        ({"is_short": True}, "one variable-length call"),
        ({"is_short": True, "softcap": 20.0}, "segment by segment"),
    ],
)
def test_the_fast_kernels_of_this_device_agree(changes, expected):
    """If one does not, a slower route is taken, and the failure shows the reason."""
    route = route_of(case(**changes))
    assert route.name == expected, route


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "gemma2", "gpt_oss"])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("layout", ["shared", "packed"])
def test_laid_out_equals_plain(make_model, trees, weights, gradients, close, family, precision, layout):
    every = {"num_local_experts": 2} if family == "gpt_oss" else {}  # rounding must not change who is asked
    model = make_model(family, torch.float32, head_dim=16, **every).cuda()
    expected = plain_logps(model, trees)
    expected_gradients = gradients(model, (expected * weights.to(expected)).sum())
    found = PolicyModule(model, layout, precision)(pack_trees(trees)).token_logps
    tolerance = 1e-3 if precision == "float32" else 0.1
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)
    assert close(gradients(model, (found * weights.to(found)).sum()), expected_gradients, tolerance)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_compiled_equals_uncompiled(make_model, trees, weights, gradients, close, family):
    model = make_model(family, torch.float32, head_dim=16, num_hidden_layers=4).cuda()
    module = PolicyModule(model)
    expected = module(pack_trees(trees)).token_logps
    expected_gradients = gradients(model, (expected * weights.to(expected)).sum())
    module.compile_layers()
    found = module(pack_trees(trees)).token_logps
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert close(gradients(model, (found * weights.to(found)).sum()), expected_gradients, 1e-3)


@contextlib.contextmanager
def no_waiting():
    """Make it an error inside the block that the host waits for the device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(("family", "precision"), [("llama", "bf16"), ("mistral", "bf16"), ("gemma2", "bf16")])
@pytest.mark.parametrize("layout", ["shared", "packed"])
def test_a_forward_and_backward_never_wait_for_the_device(make_model, trees, weights, family, precision, layout):
    """This includes making and copying the indices of a new forest. The first call chooses and compiles kernels."""
    module = PolicyModule(make_model(family, torch.float32, head_dim=16).cuda(), layout, precision)
    weights = weights.float().cuda()
    for guard in (contextlib.nullcontext(), no_waiting()):
        with guard:
            (module(pack_trees(trees)).token_logps * weights).sum().backward()


def test_a_loss_never_waits_for_the_device(make_model, trees):
    from tiltlm.core import Comparison, Example
    from tiltlm.core.device import to_device
    from tiltlm.objectives import build
    from tiltlm.training.packs import Pack

    module = PolicyModule(make_model("llama", torch.float32, head_dim=16).cuda(), precision="bf16")
    examples = [
        Example(str(i), t.prompt_ids, t.responses, comparisons=(Comparison(0, 1),))
        for i, t in enumerate(trees)
        if len(t.responses) > 1
    ]
    pack, objective = Pack.of(examples), build("dpo", beta=0.1)
    for guard in (contextlib.nullcontext(), no_waiting()):
        with guard:
            responses = module(pack_trees(pack.trees))
            responses = responses.with_reference(responses.token_logps)
            view = to_device(Pairs.of(pack.examples, pack.slots), "cuda")
            (term,) = objective(responses, view)
            term.values.sum().backward()


def test_head_accumulates_bf16_products_in_float32():
    module = torch.nn.Linear(512, 4096, bias=False, dtype=torch.bfloat16, device="cuda")
    rows = torch.randn(300, 512, dtype=torch.bfloat16, device="cuda")
    targets = torch.randint(0, 4096, (300,), device="cuda")
    with torch.no_grad():
        found = token_values(Head(), rows, module, targets).logps
        exact = torch.log_softmax(rows.double() @ module.weight.double().T, -1).gather(1, targets[:, None])[:, 0]
    assert found.dtype == torch.float32
    assert float((found - exact).abs().max()) < 1e-4


def test_self_check(make_model):
    assert choose_layout(make_model("llama", torch.float32).cuda()).layout == "shared"


def test_offloaded_activations_give_the_same_gradients_in_less_memory(tmp_path, make_model, write_tokenizer):
    """A row of 4,096 tokens through 8 layers of width 256: 32 MB of layer inputs in bf16 or float32 go to the host."""
    path = tmp_path / "model"
    shape = {"num_hidden_layers": 8, "hidden_size": 256, "max_position_embeddings": 8192}
    make_model("llama", torch.float32, **shape).save_pretrained(path)
    write_tokenizer(path, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    rng = np.random.default_rng(0)
    forest = pack_trees([Tree(token_ids(rng.integers(3, 20, 64)), (Response(token_ids(rng.integers(3, 20, 4096))),))])
    gradients, held = [], []
    for offload in (False, True):
        asked = ModelSettings(str(path), gradient_checkpointing=True, activation_offload=offload, precision="float32")
        module = load_policy(asked, "cuda").module
        before = torch.cuda.memory_allocated()
        loss = module(forest).token_logps.sum()
        held.append(torch.cuda.memory_allocated() - before)
        loss.backward()
        gradients.append([p.grad for p in module.parameters()])
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert held[0] - held[1] > 7 * 4096 * 256 * 4 * 0.9
