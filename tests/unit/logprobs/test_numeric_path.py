"""bf16 is chosen only where it is faster."""

import pytest
import torch

from support.errors import raises
from tiltlm.core.errors import ModelError
from tiltlm.logprobs.precision import choose_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "expected", "code"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, "bf16", "bf16_units"),
        ({"amx_bf16": False, "avx512_bf16": True}, "float32", "no_bf16_units"),
        ({"architecture": "aarch64", "bf16": True}, "float32", "no_bf16_units"),
    ],
)
def test_a_cpu_gets_bf16_where_it_has_matrix_units(monkeypatch, capabilities, expected, code):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    chosen, reason = choose_precision("auto", CPU)
    assert (chosen, reason.code) == (expected, code)


def test_torch_names_the_capability():
    """A processor without it says False. On others than x86 torch does not list it."""
    capabilities = torch.cpu.get_capabilities()
    assert "amx_bf16" in capabilities or capabilities["architecture"] != "x86_64"


def test_the_choice_does_not_depend_on_the_moment(monkeypatch):
    """A busy neighbour changes what a clock says; no clock is read."""
    monkeypatch.setattr("time.perf_counter", lambda: pytest.fail("a clock was read"))
    assert len({choose_precision("auto", CPU)[0] for _ in range(20)}) == 1


def test_what_is_set_is_taken():
    for requested in ("bf16", "float32"):
        chosen, reason = choose_precision(requested, CPU)
        assert (chosen, reason.code) == (requested, "set")


def test_wide_weights_stay_wide():
    assert choose_precision("auto", CPU, "float64")[0] == "float32"


def test_bf16_is_refused_where_the_device_has_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "an old card")
    with raises(ModelError, "not_supported", key="model.precision", mentions=["an old card", "bf16"]):
        choose_precision("bf16", torch.device("cuda"))
    assert choose_precision("auto", torch.device("cuda"))[0] == "float32"
