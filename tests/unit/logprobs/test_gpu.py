"""On a CUDA device: the one-call route, float32 accumulation in the head, and the self-check."""

import pytest
import torch

from tiltlm.core.forest import plant
from tiltlm.logprobs import attention
from tiltlm.logprobs.head import Head
from tiltlm.logprobs.plain import plain_logps
from tiltlm.logprobs.policy import PolicyModule
from tiltlm.logprobs.selfcheck import choose_layout
from tiltlm.logprobs.token_values import token_values

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_the_kernel_of_this_device_agrees():
    """Where it does not, the segment route is used: slower, and right."""
    assert attention.flash_agrees(torch.device("cuda", 0), torch.bfloat16)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gpt_oss"])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_shared_equals_plain(make_model, trees, weights, gradients, close, family, precision):
    model = make_model(family, torch.float32, head_dim=16).cuda()
    expected = plain_logps(model, trees)
    expected_gradients = gradients(model, (expected * weights.to(expected)).sum())
    found = PolicyModule(model, "shared", precision)(plant(trees)).token_logps
    tolerance = 1e-4 if precision == "float32" else 0.1
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)
    assert close(gradients(model, (found * weights.to(found)).sum()), expected_gradients, tolerance)


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
