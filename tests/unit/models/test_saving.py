"""Saving of policies: what transformers refuses to save, chat templates, ends."""

import json
import weakref
from collections.abc import Mapping
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, GenerationConfig

from support.tokenizers_and_templates import CHATML
from tiltlm.logprobs.head.states import Head
from tiltlm.logprobs.selfcheck import Choice
from tiltlm.models import saving
from tiltlm.models.loading import load_policy
from tiltlm.models.model_settings import LoraSettings, ModelSettings
from tiltlm.models.saving import save_policy
from tiltlm.models.sharded.saving import write_weights

CONTRADICTORY = [
    {"temperature": 0.6, "top_p": 0.9},
    {"do_sample": False, "top_k": 5, "min_p": 0.1},
    {"num_beams": 1, "length_penalty": 0.5},
    {"pad_token_id": -1},
    {"max_new_tokens": 7, "max_length": 5, "custom": {"a": [1]}},
]


@pytest.fixture
def folder(tmp_path, make_model, write_tokenizer):
    path = tmp_path / "model"
    make_model("llama", torch.float32).save_pretrained(path)
    write_tokenizer(path, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    return path


@pytest.mark.parametrize("came_with", CONTRADICTORY, ids=lambda values: next(iter(values)))
def test_no_generation_configuration_prevents_saving(folder, tmp_path, came_with):
    """transformers loads each of these, and refuses to save some of them."""
    (folder / "generation_config.json").write_text(json.dumps({**came_with, "eos_token_id": 5}))
    for name, settings in (("whole", {}), ("adapter", {"lora": LoraSettings(r=2)})):
        policy = load_policy(ModelSettings(str(folder), **settings))
        before = policy.module.bare_model.generation_config.to_dict()
        save_policy(policy, tmp_path / name, response_end=9)
        assert policy.module.bare_model.generation_config.to_dict() == before, "saving changes nothing"
        saved = json.loads((tmp_path / name / "generation_config.json").read_text())
        assert {k: saved[k] for k in came_with} == came_with
        assert saved["eos_token_id"] == [2, 5, 9]
        assert GenerationConfig.from_pretrained(tmp_path / name).eos_token_id == [2, 5, 9]
        again = load_policy(ModelSettings(str(tmp_path / name)))
        assert again.end_token_ids == (2, 5, 9)


def test_a_model_without_a_generation_configuration_gets_one(folder, tmp_path):
    (folder / "generation_config.json").unlink()
    save_policy(load_policy(ModelSettings(str(folder))), tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "generation_config.json").read_text())
    assert (saved["eos_token_id"], saved["pad_token_id"]) == ([2], 0)


@pytest.mark.parametrize("own", [None, "{{ messages }}", {"default": "{{ messages }}", "tool_use": "{{ tools }}"}])
def test_the_template_of_the_run_becomes_the_default(folder, tmp_path, own):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = own
    tokenizer.save_pretrained(folder)
    policy = load_policy(ModelSettings(str(folder)))
    save_policy(policy, tmp_path / "given", chat_template=CHATML)
    save_policy(policy, tmp_path / "own")
    assert policy.tokenizer.chat_template == own, "saving changes nothing"
    assert AutoTokenizer.from_pretrained(tmp_path / "own").chat_template == own
    given = AutoTokenizer.from_pretrained(tmp_path / "given")
    assert given.get_chat_template() == CHATML
    assert ("tool_use" in given.chat_template) == isinstance(own, dict)


def test_an_adapter_on_a_base_keeps_its_tokenizer(folder, tmp_path):
    """However the adapter is named, conversations are rendered as in its training."""
    save_policy(
        load_policy(ModelSettings(str(folder), lora=LoraSettings(r=2))), tmp_path / "adapter", chat_template=CHATML
    )
    adapter = str(tmp_path / "adapter")
    for settings in (ModelSettings(adapter), ModelSettings(str(folder), adapter=adapter)):
        assert load_policy(settings).tokenizer.chat_template == CHATML


class Counted(Mapping):
    """The weights of a model as a checkpoint has them: read one after the other, and counted while they are used."""

    def __init__(self, tensors):
        self.tensors, self.held, self.most = tensors, 0, 0

    def __getitem__(self, name):
        tensor = self.tensors[name].clone()
        size = tensor.numel() * tensor.itemsize
        self.held += size
        self.most = max(self.most, self.held)
        weakref.finalize(tensor.untyped_storage(), self.free, size)
        return tensor

    def free(self, size):
        self.held -= size

    def __iter__(self):
        return iter(self.tensors)

    def __len__(self):
        return len(self.tensors)


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_weights_of_a_checkpoint_are_written_part_by_part(tmp_path, monkeypatch, make_model, write_tokenizer, family):
    """The model that is written has no weights in memory, and no more is read than a file of the folder takes."""
    folder, parts = tmp_path / "model", tmp_path / "parts"
    make_model(family, torch.float32, num_hidden_layers=6).save_pretrained(folder)
    write_tokenizer(folder, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    settings = ModelSettings(str(folder))
    whole = load_policy(settings, choice=Choice("padded", None, 0.0, 0.0))
    empty = load_policy(settings, choice=Choice("padded", Head("module"), 0.0, 0.0), has_weights=False)
    assert all(parameter.is_meta for parameter in empty.module.parameters())
    with torch.no_grad():
        values = Counted({name: parameter + 1 for name, parameter in whole.module.named_parameters()})
        for parameter in whole.module.parameters():
            parameter.add_(1)
    save_policy(whole, tmp_path / "whole")
    monkeypatch.setattr(saving, "write_weights", partial(write_weights, file_size=1))
    save_policy(empty, parts, values=values)
    files = sorted(parts.glob("*.safetensors"))
    found = {name: tensor for file in files for name, tensor in load_file(file).items()}
    expected = load_file(tmp_path / "whole/model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    again = load_policy(ModelSettings(str(parts)), choice=whole.choice).module.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.module.state_dict().items())
    largest = max(file.stat().st_size for file in files)
    assert values.most <= largest < (folder / "model.safetensors").stat().st_size / 3
