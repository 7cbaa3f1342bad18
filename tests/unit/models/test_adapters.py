"""Adapters: each kind that is accepted merges into the same policy; the others are refused by name."""

import json
import shutil
import warnings

import peft
import pytest
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from support.errors import raises
from tiltlm.core.errors import ConfigError, ModelError
from tiltlm.core.example import Response, token_ids
from tiltlm.core.forest import Tree, pack_trees
from tiltlm.models.adapters import KINDS
from tiltlm.models.loading import load_policy
from tiltlm.models.model_settings import LoraSettings, ModelSettings
from tiltlm.models.saving import save_policy

FOREST = pack_trees([Tree(token_ids([1, 5, 6, 9]), (Response(token_ids([7, 8, 2])), Response(token_ids([4, 3]))))])

LAYERS = {"target_modules": ["q_proj", "v_proj"]}
FIELDS = {
    "IA3": {**LAYERS, "feedforward_modules": []},
    "FOURIERFT": {**LAYERS, "n_frequency": 16},
    "VBLORA": {**LAYERS, "vector_length": 4, "num_vectors": 32, "topk": 2},
    "MISS": {**LAYERS, "r": 4},
}
ACCEPTED = [(kind, "llama", FIELDS.get(kind, LAYERS)) for kind in sorted(KINDS)] + [
    ("LORA", "llama", {**LAYERS, "use_dora": True}),
    ("LORA", "llama", {**LAYERS, "use_rslora": True}),
    ("LORA", "llama", {**LAYERS, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 9}}),
    ("LORA", "llama", {**LAYERS, "lora_dropout": 0.1}),
    ("LORA", "llama", {"target_modules": ["q_proj", "embed_tokens", "lm_head"]}),
    ("LORA", "llama", {**LAYERS, "modules_to_save": ["embed_tokens", "norm"]}),
    ("LORA", "llama", {**LAYERS, "modules_to_save": ["lm_head"]}),
    ("LORA", "llama", {**LAYERS, "trainable_token_indices": [4, 6]}),
    ("LORA", "llama_tied", {**LAYERS, "trainable_token_indices": [4, 6]}),
    ("LORA", "llama_tied", {**LAYERS, "modules_to_save": ["lm_head"]}),
    ("LORA", "llama_tied", {**LAYERS, "modules_to_save": ["embed_tokens"]}),
]
REFUSED = [
    ("ADALORA", "llama", {**LAYERS, "total_step": 10}, "not_supported", "ADALORA"),
    ("TRAINABLE_TOKENS", "llama", {"target_modules": ["embed_tokens"], "token_indices": [4]}, "not_supported", "LORA"),
    ("PROMPT_TUNING", "llama", {"num_virtual_tokens": 3}, "not_supported", "PROMPT_TUNING"),
    ("LORA", "llama", {**LAYERS, "bias": "lora_only"}, "not_supported", "bias"),
    ("LORA", "llama", {**LAYERS, "init_lora_weights": "pissa"}, "not_supported", "pissa"),
    ("LORA", "llama", {**LAYERS, "alora_invocation_tokens": [3, 4]}, "not_supported", "alora_invocation_tokens"),
    ("LORA", "llama", {**LAYERS, "layer_replication": [[0, 2], [1, 2]]}, "not_supported", "layer_replication"),
    ("OFT", "llama", {**LAYERS, "module_dropout": 0.1}, "not_supported", "module_dropout"),
    ("LORA", "llama_tied", {"target_modules": ["q_proj", "lm_head"]}, "tied_weights", "all-linear"),
    ("LORA", "llama_tied", {"target_modules": ["q_proj", "embed_tokens"]}, "tied_weights", "all-linear"),
]


@pytest.fixture
def write(tmp_path, make_model, write_tokenizer):
    """Return `write(kind, family, fields)`, which saves a base model and an adapter with random weights."""

    def write(kind, family, fields):
        base = tmp_path / "base"
        model = make_model(family, torch.float32)
        model.save_pretrained(base)
        write_tokenizer(base, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
        model = type(model).from_pretrained(base)
        configs = {key.value: value for key, value in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
        if kind not in configs or not set(fields) <= set(configs[kind].__dataclass_fields__):
            pytest.skip("this version of PEFT has no such adapter")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapted = peft.get_peft_model(model, configs[kind](task_type="CAUSAL_LM", **fields))
            torch.manual_seed(1)
            with torch.no_grad():
                for parameter in adapted.parameters():
                    if parameter.requires_grad:
                        parameter.add_(torch.randn_like(parameter) * 0.1)
            if "layer_replication" in fields:
                (tmp_path / "adapter").mkdir()
                adapted.peft_config["default"].save_pretrained(tmp_path / "adapter")
                (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"")
            else:
                adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
        return tmp_path / "adapter"

    return write


def logps(policy):
    with torch.no_grad():
        return policy.module(FOREST).token_logps


@pytest.mark.parametrize(("kind", "family", "fields"), ACCEPTED)
def test_merged_equals_unmerged_and_off_equals_the_base(write, tmp_path, kind, family, fields):
    policy = load_policy(ModelSettings(str(write(kind, family, fields))))
    assert any(p.requires_grad for p in policy.module.parameters())
    save_policy(policy, tmp_path / "merged", merge=True)
    save_policy(policy, tmp_path / "again")
    adapted, base = logps(policy), logps(load_policy(ModelSettings(str(tmp_path / "base"))))
    assert (adapted - base).abs().max() > 1e-3, "it changes the policy"
    with policy.module.adapters_disabled():
        torch.testing.assert_close(logps(policy), base, atol=1e-5, rtol=0)
    for saved in ("merged", "again"):
        torch.testing.assert_close(
            logps(load_policy(ModelSettings(str(tmp_path / saved)))), adapted, atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize(("kind", "family", "fields", "code", "mention"), REFUSED)
def test_other_adapters_are_refused_by_name(write, kind, family, fields, code, mention):
    adapter = write(kind, family, fields)
    with raises(ModelError, code, key="model.adapter", mentions=[mention]):
        load_policy(ModelSettings(str(adapter)))


@pytest.fixture
def base(tmp_path, make_model, write_tokenizer):
    make_model("llama_tied", torch.float32).save_pretrained(tmp_path / "base")
    write_tokenizer(tmp_path / "base", bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    return tmp_path / "base"


@pytest.mark.parametrize(
    ("targets", "code", "mention"),
    [
        (("q_proj", "v_prj"), "no_such_module", "v_proj"),
        ("q_proj,v_proj", "no_such_module", "[q_proj,v_proj]"),
        ("qproj", "not_supported", "q_proj"),
        (("self_attn",), "not_supported", "q_proj"),
        (("q_proj", "lm_head"), "tied_weights", "all-linear"),
    ],
)
def test_targets_that_do_not_fit_the_model(base, targets, code, mention):
    error = ModelError if code == "tied_weights" else ConfigError
    with raises(error, code, key="model.lora.target_modules") as refusal:
        load_policy(ModelSettings(str(base), lora=LoraSettings(target_modules=targets)))
    assert mention.replace(" ", "") in str(refusal.value).replace(" ", "")


def test_what_peft_does_for_itself_is_not_said(base):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_policy(ModelSettings(str(base), lora=LoraSettings(target_modules=("q_proj",))))


def test_a_regular_expression_may_have_a_comma(base):
    policy = load_policy(ModelSettings(str(base), lora=LoraSettings(target_modules=r".*\.(q|v)_proj{1,1}")))
    assert any("q_proj.lora_A" in name for name, _ in policy.module.named_parameters())


def test_a_moved_base_model(base, tmp_path, monkeypatch):
    """The message names the adapter, its base and two settings that work. A relative path looks like a hub name."""
    monkeypatch.chdir(tmp_path)
    for path in (str(base), "base"):
        shutil.rmtree("adapter", ignore_errors=True)
        save_policy(load_policy(ModelSettings(path, lora=LoraSettings(r=2))), tmp_path / "adapter")
        base.rename("elsewhere")
        with raises(
            ModelError,
            "no_base_model" if path != "base" else "not_reachable",
            mentions=[str(tmp_path / "adapter"), path, "model.path", f"model.adapter={tmp_path / 'adapter'}"],
        ):
            load_policy(ModelSettings(str(tmp_path / "adapter")))
        assert load_policy(ModelSettings(str(tmp_path / "elsewhere"), adapter=str(tmp_path / "adapter"))).has_adapter
        (tmp_path / "elsewhere").rename(base)


def test_an_adapter_of_another_model_or_half_of_one(base, tmp_path, make_model):
    from safetensors.torch import load_file, save_file

    adapter = tmp_path / "adapter"
    save_policy(load_policy(ModelSettings(str(base), lora=LoraSettings(r=2))), adapter)
    make_model("llama", torch.float32, hidden_size=64).save_pretrained(base)
    with raises(ModelError, "adapter_not_readable", key="model.adapter", mentions=[str(adapter)]):
        load_policy(ModelSettings(str(adapter)))
    make_model("llama", torch.float32).save_pretrained(base)
    tensors = load_file(adapter / "adapter_model.safetensors")
    lost = sorted(tensors)[0]
    save_file({k: v for k, v in tensors.items() if k != lost}, adapter / "adapter_model.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with raises(ModelError, "missing_tensors", key="model.adapter", mentions=[lost]):
            load_policy(ModelSettings(str(adapter)))
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "peft_type": "NOTHING"}))
    with raises(ModelError, "adapter_not_readable", key="model.adapter"):
        load_policy(ModelSettings(str(adapter)))
