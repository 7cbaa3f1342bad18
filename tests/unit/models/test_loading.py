"""Loading of policies: what is decided and noted, and what is refused."""

import json
import logging
import math
import shutil
from dataclasses import replace

import pytest
import torch
import transformers

from support.errors import has_event, raises
from support.small_run import Run
from tiltlm.core.errors import ConfigError, ModelError, RunError
from tiltlm.core.example import Response, token_ids
from tiltlm.core.forest import Tree, pack_trees
from tiltlm.data.rows.records import Record
from tiltlm.logprobs import checkpointing
from tiltlm.logprobs.plain import plain_logps
from tiltlm.logprobs.policy import PolicyModule
from tiltlm.models import loading
from tiltlm.models.loading import load_policy
from tiltlm.models.model_settings import LoraSettings, ModelSettings
from tiltlm.models.saving import save_policy
from tiltlm.models.tokenizers import load_tokenizer
from tiltlm.recipes.prepare import encoder_of
from tiltlm.reference.digests import numeric_path

TREES = [Tree(token_ids([1, 5, 6, 9]), (Response(token_ids([7, 8, 2])), Response(token_ids([4]))))]
FOREST = pack_trees(TREES)


@pytest.fixture
def folder(tmp_path, make_model, write_tokenizer):
    path = tmp_path / "model"
    model = make_model("llama", torch.float32, attention_dropout=0.1)
    model.generation_config.eos_token_id = [2, 5]
    model.save_pretrained(path)
    write_tokenizer(path, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    return path


def settings(path, **fields):
    return ModelSettings(str(path), **fields)


def logps(policy):
    with torch.no_grad():
        return policy.module(FOREST).token_logps


def test_a_folder_is_a_policy(folder):
    policy = load_policy(settings(folder))
    assert policy.choice.layout == policy.module.layout == "shared"
    assert policy.end_token_id == 2
    assert policy.end_token_ids == (2, 5), "sampling also stops where the generation configuration says"
    assert not policy.has_adapter
    assert policy.module.config.attention_dropout == 0.1, "the model is the one in the folder"
    notes = {note.code: note for note in policy.notes}
    for code, value in (
        ("layout", "shared"),
        ("precision", "float32"),
        ("end_tokens", "'</s>', 'w2'"),
    ):
        assert value in notes[code]


RANDOM = [
    ("llama", {"attention_dropout": 0.1}),
    ("gpt2", {}),
    ("opt", {"layerdrop": 0.5, "dropout": 0.3}),
    ("bloom", {"hidden_dropout": 0.2}),
    ("mixtral", {"router_jitter_noise": 0.05}),
    ("phimoe", {"input_jitter_noise": 0.1, "router_jitter_noise": 0.3}),
]


@pytest.mark.parametrize(("family", "fields"), RANDOM)
def test_what_trains_is_the_model_in_the_folder(tmp_path, make_model, write_tokenizer, family, fields):
    """Nothing random acts in training, and a setting that counts in evaluation too (PhiMoE's jitter) is kept."""
    folder = tmp_path / "model"
    make_model(family, torch.float32, **fields).save_pretrained(folder)
    write_tokenizer(folder, eos_token="</s>")
    policy = load_policy(settings(folder))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        torch.testing.assert_close(logps(policy), plain_logps(model, TREES), atol=1e-5, rtol=0)
    result = Run(tmp_path / "run", policy=policy.module, max_steps=2).result
    first = next(record for record in result.history if "loss" in record)
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-5), "policy and reference are the same"
    save_policy(policy, tmp_path / "trained")
    before, after = (json.loads((path / "config.json").read_text()) for path in (folder, tmp_path / "trained"))
    assert after == before


def test_a_layout_that_deviates_is_a_warning_where_it_is_forced(folder, monkeypatch, caplog):
    choice = replace(load_policy(settings(folder)).choice, max_error=0.03)
    monkeypatch.setattr(loading, "choose_layout", lambda *_: choice)
    policy = load_policy(settings(folder, layout="shared"))
    assert has_event(caplog, "layout_deviates", logging.WARNING, choice=choice)
    assert "3e-02" in next(note for note in policy.notes if note.code == "layout")
    exact = PolicyModule(policy.module.model)
    assert numeric_path(policy.module) != numeric_path(exact), "other runs do not use what the store keeps of it"


def test_a_tokenizer_without_weights(folder):
    (folder / "model.safetensors").write_bytes(b"")
    found = load_tokenizer(settings(folder))
    assert (found.tokenizer.eos_token_id, found.window, found.num_embeddings, found.notes) == (2, 128, None, ())
    config = folder / "config.json"
    for content, code in (('{"model_type": "nothing"}', "config_not_readable"), ("{", "tokenizer_not_readable")):
        config.write_text(content, encoding="utf-8")
        with raises(ModelError, code, key="model.path", mentions=[str(folder)]):
            load_tokenizer(settings(folder))


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_weights_have_the_dtype_that_is_asked_for(folder, dtype):
    policy = load_policy(settings(folder, dtype=dtype, layout="packed", precision="float32"))
    assert {p.dtype for p in policy.module.parameters()} == {getattr(torch, dtype)}
    assert logps(policy).dtype == (torch.float64 if dtype == "float64" else torch.float32)
    assert policy.module.layout == "packed"


def test_gradient_checkpointing_is_switched_on(folder):
    policy = load_policy(settings(folder, gradient_checkpointing=True))
    assert all(checkpointing.is_checkpointed(layer) for layer in policy.module.model.model.layers)
    plain = load_policy(settings(folder))
    for each in (policy, plain):
        each.module(FOREST).token_logps.sum().backward()
    weights = [each.module.model.model.embed_tokens.weight.grad for each in (policy, plain)]
    torch.testing.assert_close(*weights, atol=1e-7, rtol=0)


def test_activation_offload_needs_checkpointing_and_a_device(folder):
    with raises(
        ConfigError,
        "no_effect",
        key="model.activation_offload",
        mentions=["model.gradient_checkpointing=true"],
    ):
        settings(folder, activation_offload=True)
    with raises(ConfigError, "no_effect", key="model.activation_offload") as refusal:
        load_policy(settings(folder, gradient_checkpointing=True, activation_offload=True), "cpu")
    assert "gradient_checkpointing" not in str(refusal.value)


def test_what_each_layer_keeps_is_what_is_offloaded(folder, monkeypatch):
    """The hooks that take tensors to the host see the input of every layer, and give the same gradients."""
    plain, policy = (load_policy(settings(folder)).module for _ in range(2))
    moved = []

    def to_the_host(**_):
        return torch.autograd.graph.saved_tensors_hooks(lambda t: moved.append(t) or t.clone(), lambda t: t)

    monkeypatch.setattr(checkpointing, "save_on_cpu", to_the_host)
    for layer in policy.model.model.layers:
        checkpointing.checkpoint_layer(layer, offload=True)
    for module in (plain, policy):
        module(FOREST).token_logps.sum().backward()
    assert len(moved) >= len(policy.model.model.layers)
    assert all(t.shape[-1] == policy.model.config.hidden_size for t in moved[: len(policy.model.model.layers)])
    for found, expected in zip(policy.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, atol=1e-7, rtol=0)


def test_a_fresh_adapter_changes_nothing_and_alone_is_trained(folder):
    base, policy = load_policy(settings(folder)), load_policy(settings(folder, lora=LoraSettings(r=3, alpha=6.0)))
    assert policy.has_adapter
    assert torch.equal(logps(base), logps(policy))
    trained = [n for n, p in policy.module.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    assert not any("lm_head" in name for name in trained)


def shaken(policy):
    """Give the adapter random weights, so that it changes the policy."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in policy.module.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return policy


def test_an_adapter_is_saved_continued_and_merged(folder, tmp_path):
    policy = shaken(load_policy(settings(folder, lora=LoraSettings(r=3))))
    expected = logps(policy)
    save_policy(policy, tmp_path / "adapter")
    save_policy(policy, tmp_path / "merged", merge=True)
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    assert torch.equal(logps(policy), expected), "saving changes nothing"
    by_path = load_policy(settings(tmp_path / "adapter"))
    by_setting = load_policy(settings(folder, adapter=str(tmp_path / "adapter")))
    merged = load_policy(settings(tmp_path / "merged"))
    assert by_path.has_adapter
    assert any(p.requires_grad for p in by_path.module.parameters())
    assert not merged.has_adapter
    for policy in (by_path, by_setting, merged):
        torch.testing.assert_close(logps(policy), expected, atol=1e-5, rtol=0)


def test_a_saved_policy_is_an_ordinary_folder(folder, tmp_path):
    policy = load_policy(settings(folder))
    target = tmp_path / "runs" / "saved"
    save_policy(policy, target)
    names = {p.name for p in target.iterdir()}
    assert {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json"} <= names
    assert not any(name.endswith((".bin", ".pt")) for name in names)
    assert [p.name for p in target.parent.iterdir()] == ["saved"], "nothing temporary is left"
    model = transformers.AutoModelForCausalLM.from_pretrained(target)
    assert model.config._attn_implementation == "sdpa", "our attention is not in the configuration"
    tree = Tree(token_ids([1, 5, 6, 9]), (Response(token_ids([7, 8, 2])), Response(token_ids([4]))))
    with torch.no_grad():
        torch.testing.assert_close(plain_logps(model, [tree]), logps(policy), atol=1e-5, rtol=0)
    assert transformers.AutoTokenizer.from_pretrained(target).eos_token == "</s>"


def test_nothing_is_overwritten_or_left_incomplete(folder, tmp_path, monkeypatch):
    policy = load_policy(settings(folder))
    with raises(RunError, "already_exists", key="folder", mentions=[str(folder)]):
        save_policy(policy, folder)

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(policy.tokenizer, "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        save_policy(policy, tmp_path / "out" / "half")
    assert list((tmp_path / "out").iterdir()) == []


def refuse(path, code, *mentions, key="model.path", **fields):
    with raises(ModelError, code, key=key, mentions=mentions) as refusal:
        load_policy(settings(path, **fields))
    assert refusal.value.exit_code == 2
    return refusal.value


def test_errors_name_the_setting_of_the_model(folder, tmp_path):
    """A reference model is named by another setting than the policy."""
    (folder / "model.safetensors").unlink()
    for path, code in ((tmp_path / "nowhere", "no_such_path"), (folder, "no_weights")):
        with raises(ModelError, code, key="reference.name", mentions=["reference.name", str(path)]) as refusal:
            load_policy(settings(path), key="reference.name")
        assert "model.path" not in str(refusal.value)


def test_missing_folders(tmp_path):
    refuse(tmp_path / "nowhere", "no_such_path", str(tmp_path / "nowhere"))
    refuse("./nowhere", "no_such_path", "./nowhere")
    refuse("a/b/c", "no_such_path", "a/b/c")


def test_a_name_on_the_hub_goes_through_transformers(monkeypatch):
    """Without network: transformers is called with the revision, and its error becomes a ModelError."""
    asked = {}

    def from_pretrained(path, **keywords):
        asked.update(keywords, path=path)
        raise OSError("We couldn't connect to the hub\nmore lines")

    monkeypatch.setattr("tiltlm.models.folders.unreachable", lambda *_: None)
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", lambda *_, **__: transformers.LlamaConfig())
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    its_error = "We couldn't connect to the hub"
    refusal = refuse("someone/model", "model_not_readable", "someone/model", its_error, revision="abc")
    assert "more lines" not in str(refusal), "its first line only"
    assert asked["path"] == "someone/model"
    assert asked["revision"] == "abc"
    assert asked["use_safetensors"] is True
    assert asked["trust_remote_code"] is False


def test_a_file_or_an_empty_folder(folder, tmp_path):
    refuse(folder / "config.json", "not_a_folder", str(folder / "config.json"))
    (tmp_path / "empty").mkdir()
    refuse(tmp_path / "empty", "not_a_model", "config.json")


def test_a_folder_without_weights(folder):
    (folder / "model.safetensors").unlink()
    refuse(folder, "no_weights", str(folder), "*.safetensors")


def test_pickles_are_never_opened(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    refuse(folder, "only_pickles", "pytorch_model.bin", "safetensors")


def test_damaged_weights(folder):
    (folder / "model.safetensors").write_bytes(b"\x00" * 40)
    refuse(folder, "model_not_readable", str(folder))


def test_weights_of_half_a_model(folder):
    """transformers would use random numbers for missing tensors; here it is an error."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    refuse(folder, "missing_tensors", "LlamaForCausalLM", "model.layers.1.mlp.up_proj.weight")


def test_a_damaged_configuration(folder):
    (folder / "config.json").write_text("{", encoding="utf-8")
    refuse(folder, "model_not_readable", str(folder))


def test_a_tokenizer_without_an_end(folder, write_tokenizer):
    write_tokenizer(folder, bos_token="<s>")
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert "eos_token" not in config
    refuse(folder, "no_end_token", "eos_token", "tokenizer_config.json")


def test_a_folder_without_a_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    refuse(folder, "tokenizer_not_readable", str(folder))


def test_tokens_without_embeddings(folder, make_model, write_tokenizer):
    """They do no harm where no row uses them: a note. An end token must have one."""
    make_model("llama", torch.float32, vocab_size=52).save_pretrained(folder)
    policy = load_policy(settings(folder))
    (note,) = [note for note in policy.notes if note.code == "too_few_embeddings"]
    assert "'w49'" in note
    encoder = encoder_of(policy)
    assert encoder.num_embeddings == 52
    rows = [Record(location="1", id=str(i), prompt="w1 w2", responses=(f" w{i}",)) for i in (48, 49)]
    good, bad = encoder.encode_many(rows)
    assert good.responses[0].token_ids.tolist() == [51, 2]
    assert bad.code == "unknown_token"
    write_tokenizer(folder, eos_token="w49")
    refuse(folder, "too_few_embeddings", "53", "52")


def test_adapters_are_safetensors_with_a_base(folder, tmp_path):
    save_policy(load_policy(settings(folder, lora=LoraSettings())), tmp_path / "adapter")
    adapter = tmp_path / "adapter"
    refuse(adapter, "conflict", str(adapter), key="model.adapter", adapter=str(adapter))
    refuse(adapter, "conflict", str(adapter), key="model.lora", lora=LoraSettings())
    refuse(folder, "not_an_adapter", "adapter_config.json", key="model.adapter", adapter=str(folder))
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": None}))
    refuse(adapter, "no_base_model", "base_model_name_or_path")
    shutil.move(adapter / "adapter_model.safetensors", adapter / "adapter_model.bin")
    refuse(adapter, "only_pickles", "adapter_model.bin")
    refuse(folder, "only_pickles", "adapter_model.bin", key="model.adapter", adapter=str(adapter))


def test_a_layout_that_cannot_be(tmp_path, make_model, write_tokenizer):
    make_model("bloom", torch.float32).save_pretrained(tmp_path)
    write_tokenizer(tmp_path, eos_token="</s>")
    refuse(tmp_path, "no_exact_layout", "BloomForCausalLM", key="model.layout", layout="shared")


@pytest.mark.parametrize(
    ("fields", "code", "key", "other"),
    [
        ({"trust_remote_code": True}, "unpinned_code", "model.trust_remote_code", "model.revision"),
        ({"lora": LoraSettings(), "adapter": "somewhere"}, "conflict", "model.lora", "model.adapter"),
        ({"precision": "bf16", "dtype": "float64"}, "conflict", "model.precision", "model.dtype"),
    ],
)
def test_settings_that_contradict(fields, code, key, other):
    with raises(ConfigError, code, key=key, mentions=[key, other]):
        ModelSettings("someone/model", **fields)


def test_a_folder_has_no_revision(folder):
    for load in (load_policy, load_tokenizer):
        with raises(
            ConfigError,
            "no_effect",
            key="model.revision",
            mentions=["model.revision=v2", f"model.path={folder}"],
        ):
            load(ModelSettings(str(folder), revision="v2"))


def test_remote_code_needs_a_repository_and_not_a_folder(folder):
    with raises(ConfigError, "unpinned_code", key="model.trust_remote_code", mentions=["model.path"]):
        ModelSettings(str(folder), revision="main", trust_remote_code=True)
    assert ModelSettings("someone/model", revision="abc", trust_remote_code=True).trust_remote_code


@pytest.mark.parametrize("fields", [{"r": 0}, {"alpha": 0.0}, {"alpha": math.nan}, {"alpha": math.inf}])
def test_adapters_that_could_not_learn(fields):
    with raises(ConfigError, "not_positive", key=f"model.lora.{next(iter(fields))}"):
        LoraSettings(**fields)


def test_the_real_model(stories):
    policy = load_policy(settings(stories))
    assert policy.choice.layout == "shared"
    assert policy.end_token_id == 2
    assert policy.end_token_ids == (1, 2)
