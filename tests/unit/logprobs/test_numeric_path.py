"""Every kind of dropout is found, and bf16 is chosen only where it is faster."""

import pytest
import torch
from torch import nn

from support.errors import raises
from tiltlm.core.errors import ModelError
from tiltlm.logprobs import precision
from tiltlm.logprobs.precision import choose_precision
from tiltlm.models.dropout import remove_dropout

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("family", "changes", "names"),
    [
        ("llama", {"attention_dropout": 0.1}, {"attention_dropout=0.1"}),
        ("gpt2", {}, {"attn_pdrop=0.1", "embd_pdrop=0.1", "resid_pdrop=0.1"}),
        ("opt", {"layerdrop": 0.2, "dropout": 0.3}, {"layerdrop=0.2", "dropout=0.3"}),
        ("bloom", {"hidden_dropout": 0.2}, {"hidden_dropout=0.2"}),
        ("mixtral", {"router_jitter_noise": 0.05}, {"router_jitter_noise=0.05"}),
    ],
)
def test_two_training_forwards_agree_afterwards(make_model, family, changes, names):
    """In training mode, where dropout would be active."""
    model = make_model(family, torch.float32, **changes).train()
    ids = torch.tensor([[1, 5, 9, 4, 7, 30, 2, 8]])

    def logits():
        return model(input_ids=ids, use_cache=False).logits

    torch.manual_seed(0)
    assert not torch.equal(logits(), logits())
    found = remove_dropout(model)
    assert names <= set(found)
    assert torch.equal(logits(), logits())
    assert remove_dropout(model) == []


def test_dropout_of_adapters():
    model = nn.ModuleDict({"lora_dropout": nn.ModuleDict({"default": nn.Dropout(0.05)})})
    assert remove_dropout(model) == ["dropout=0.05"]
    assert model["lora_dropout"]["default"].p == 0


@pytest.mark.parametrize(
    ("narrow", "wide", "expected"), [(1.0, 4.0, "bf16"), (4.0, 1.0, "float32"), (1.0, 1.1, "float32")]
)
def test_a_cpu_gets_bf16_where_it_is_faster(monkeypatch, narrow, wide, expected):
    monkeypatch.setattr(precision, "_seconds", lambda dtype: narrow if dtype == torch.bfloat16 else wide)
    chosen, reason = choose_precision("auto", CPU)
    assert chosen == expected
    assert reason.code == "measured"
    assert f"{narrow / wide:.1f}" in reason


def test_what_is_set_is_taken():
    for requested in ("bf16", "float32"):
        chosen, reason = choose_precision(requested, CPU)
        assert (chosen, reason.code) == (requested, "set")


def test_wide_weights_stay_wide():
    assert choose_precision("auto", CPU, "float64")[0] == "float32"


def test_the_probe_runs():
    assert precision._seconds(torch.bfloat16) > 0


def test_bf16_is_refused_where_the_device_has_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "an old card")
    with raises(ModelError, "not_supported", key="model.precision", mentions=["an old card", "bf16"]):
        choose_precision("bf16", torch.device("cuda"))
    assert choose_precision("auto", torch.device("cuda"))[0] == "float32"
