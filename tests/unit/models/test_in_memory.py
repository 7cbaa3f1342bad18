"""A model in memory as a folder: the same weights, configuration and tokenizer; the given objects stay as they are."""

import copy
import json
from pathlib import Path

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from support.errors import raises
from tiltlm.config.in_memory import is_model
from tiltlm.core import ModelError
from tiltlm.models import LoraSettings, ModelSettings, load_policy
from tiltlm.models.in_memory import write_model


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TILTLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tokenizer(tmp_path, write_tokenizer):
    write_tokenizer(tmp_path / "tokenizer", bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    return AutoTokenizer.from_pretrained(tmp_path / "tokenizer")


@pytest.mark.parametrize("family", ["llama", "llama_tied", "qwen3_moe"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_folder_is_the_model(family, dtype, make_model, tokenizer):
    model = make_model(family, dtype)
    model.generation_config.eos_token_id = [2, 5]
    model.generation_config.temperature = 0.6  # without sampling: transformers refuses to save it
    config, generation = copy.deepcopy(vars(model.config)), model.generation_config.to_dict()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    folder = write_model((model, tokenizer), "model")
    assert vars(model.config) == config
    assert model.generation_config.to_dict() == generation
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    again = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    assert type(again) is type(model)
    assert again.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in again.state_dict().items())
    assert (again.generation_config.eos_token_id, again.generation_config.temperature) == ([2, 5], 0.6)
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == tokenizer.get_vocab()


def test_the_name_is_the_content(make_model, tokenizer):
    model = make_model("llama", torch.float32)
    first = write_model((model, tokenizer), "model")
    tokenizer(["a", "b c"], truncation=True, max_length=2, padding=True)  # a call leaves its settings in the tokenizer
    model.config.name_or_path = "elsewhere"
    assert write_model((model.train(), tokenizer), "reference") == first
    assert write_model(load_policy(ModelSettings(str(first))), "model") == first, "what load_policy returns, too"
    names = {first}
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1e-6
    names.add(write_model((model, tokenizer), "model"))
    model.generation_config.eos_token_id = [2, 5]
    names.add(write_model((model, tokenizer), "model"))
    model.config.rms_norm_eps *= 2
    names.add(write_model((model, tokenizer), "model"))
    tokenizer.chat_template = "{{ messages }}"
    names.add(write_model((model, tokenizer), "model"))
    assert len(names) == 5
    assert all(name.name.startswith("llama-") for name in names)


def test_a_classifier_may_be_given(make_classifier, tokenizer):
    folder = write_model((make_classifier("llama"), tokenizer), "model")
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["LlamaForSequenceClassification"]


class OwnModel(LlamaForCausalLM):
    """A class that no folder names."""


def changed(model, how: str):
    """Return a model that no folder can hold."""
    if how == "adapter":
        return peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"]))
    if how == "adapter inside":
        model.add_adapter(peft.LoraConfig(target_modules=["q_proj"]))
    elif how == "quantised":
        model.config.quantization_config = {"quant_method": "mxfp4"}
    elif how == "whole numbers":
        model.lm_head.weight = torch.nn.Parameter(torch.ones(61, 32, dtype=torch.int8), requires_grad=False)
    elif how == "not in memory":
        model.model.layers[0].to("meta")
    elif how == "own class":
        return OwnModel(model.config)
    return model


@pytest.mark.parametrize(
    "how", ["adapter", "adapter inside", "quantised", "whole numbers", "not in memory", "own class"]
)
def test_models_that_a_folder_cannot_hold_are_refused(how, make_model, tokenizer, cache):
    with raises(ModelError, "not_supported", key="model"):
        write_model((changed(make_model("llama", torch.float32), how), tokenizer), "model")
    assert not cache.exists()


def test_a_policy_with_an_adapter_is_refused(make_model, tokenizer):
    folder = write_model((make_model("llama", torch.float32), tokenizer), "model")
    with raises(ModelError, "not_supported", key="reference"):
        write_model(load_policy(ModelSettings(str(folder), lora=LoraSettings(r=2))), "reference")


def test_what_is_a_model():
    module = torch.nn.Linear(1, 1)
    assert is_model(module)
    assert is_model((module, "tokenizer"))
    for other in ("path", Path("path"), ["a", "b"], {"path": "p"}, None, 3):
        assert not is_model(other)
