"""A judge does not judge its own family."""

from types import SimpleNamespace

import pytest

from support.errors import raises
from tiltlm.core import ConfigError
from tiltlm.judging.language.family import check_family, family_of


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "llama"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm"),
        ("models/qwen2.5/run-1", "qwen"),
        ("mistralai/Mixtral-8x7B", "mistral"),
        ("gpt-4o-mini", "gpt"),
        ("runs/first/model", ""),
        ("ChatGPTlike", ""),
    ],
)
def test_families_by_name(model, family):
    assert family_of(model) == family


def judge(model="", weights=""):
    return SimpleNamespace(model=model, weights=weights)


def test_the_same_family_or_the_same_weights_are_refused():
    with raises(ConfigError, "own_family", key="judge.allow_self", mentions=["qwen"]):
        check_family(judge("Qwen/Qwen3-8B"), [("other", ""), ("qwen2-dpo", "")], allow_self=False)
    with raises(ConfigError, "own_family"):
        check_family(judge("a", "w1"), [("b", "w1")], allow_self=False)
    check_family(judge("Qwen/Qwen3-8B", "w1"), [("qwen2-dpo", "w1")], allow_self=True)
    check_family(judge("Qwen/Qwen3-8B", "w1"), [("Llama-3", "w2"), ("runs/model", "")], allow_self=False)
    check_family(judge(), [("", "")], allow_self=False)
