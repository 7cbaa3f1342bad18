"""bf16 is chosen only where it is faster."""

import pytest
import torch

from support.errors import raises
from tiltlm.core.errors import ModelError
from tiltlm.logprobs import precision
from tiltlm.logprobs.precision import choose_precision

CPU = torch.device("cpu")


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
