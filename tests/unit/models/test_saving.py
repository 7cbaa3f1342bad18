"""Saving of policies: what transformers refuses to save, chat templates, ends."""

import json

import pytest
import torch
from transformers import AutoTokenizer, GenerationConfig

from support.tokenizers_and_templates import CHATML
from tiltlm.models.loading import load_policy
from tiltlm.models.model_settings import LoraSettings, ModelSettings
from tiltlm.models.saving import save_policy

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
