"""Models from others never run code: pickles, Python files and kernels are refused before they are opened."""

import contextlib
import json

import pytest
import torch
import transformers
from safetensors.torch import load_file

import tiltlm
from support.canaries import Canary
from support.errors import raises
from tiltlm.core.errors import ConfigError, DataError, ModelError, TiltError
from tiltlm.judging.scorers.reward_model import PairClassifier
from tiltlm.models.foreign_code import without_pickles
from tiltlm.models.loading import load_policy
from tiltlm.models.model_settings import LoraSettings, ModelSettings
from tiltlm.models.saving import save_policy
from tiltlm.models.tokenizers import load_tokenizer


@pytest.fixture
def canary(tmp_path):
    """Return a canary that was seen to sing when its pickle is opened."""
    found = Canary(tmp_path)
    torch.serialization.pickle.loads(found.pickle)
    assert found.sang
    found.file.unlink()
    return found


@pytest.fixture
def folder(tmp_path, make_model, write_tokenizer):
    path = tmp_path / "model"
    make_model("llama", torch.float32).save_pretrained(path)
    write_tokenizer(path, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    return path


def change(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **values}), encoding="utf-8")


def as_pickle(folder, name, canary, *, is_harmful):
    """Move the weights of a folder into a pickle: one that loads, or one that sings."""
    weights = folder / "model.safetensors"
    if is_harmful:
        (folder / name).write_bytes(canary.pickle)
    else:
        torch.save(load_file(weights), folder / name)
    names = list(load_file(weights))
    weights.unlink()
    return names


@pytest.mark.parametrize("is_harmful", [True, False])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pt", "../elsewhere.safetensors", "/etc/hostname"])
def test_an_index_that_names_other_files_than_safetensors(folder, canary, name, is_harmful):
    (folder / "empty.safetensors").write_bytes(b"")
    names = as_pickle(folder, "pytorch_model.bin", canary, is_harmful=is_harmful)
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    code = "only_pickles" if ".." not in name and "/" not in name else "unsafe_index"
    with raises(ModelError, code, key="model.path", mentions=[name, "model.safetensors.index.json"]):
        load_policy(ModelSettings(str(folder)))
    assert not canary.sang


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', "{}"])
def test_a_damaged_index(folder, content):
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    (folder / "model.safetensors.index.json").write_text(content)
    with raises(ModelError, "unsafe_index", key="model.path", mentions=["model.safetensors.index.json"]):
        load_policy(ModelSettings(str(folder)))


def test_a_sharded_folder_is_loaded(folder, make_model):
    (folder / "model.safetensors").unlink()
    make_model("llama", torch.float32).save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    load_policy(ModelSettings(str(folder)))


@pytest.mark.parametrize("name", ["adapter_model.bin", "pytorch_model.bin"])
@pytest.mark.parametrize("is_harmful", [True, False])
def test_a_configuration_that_names_a_pickle(folder, canary, name, is_harmful):
    (folder / "empty.safetensors").write_bytes(b"")
    as_pickle(folder, name, canary, is_harmful=is_harmful)
    change(folder / "config.json", transformers_weights=name)
    with raises(ModelError, "only_pickles", key="model.path", mentions=[name, "config.json"]):
        load_policy(ModelSettings(str(folder)))
    assert not canary.sang


@pytest.fixture
def adapter(folder, tmp_path):
    save_policy(load_policy(ModelSettings(str(folder), lora=LoraSettings())), tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize("is_harmful", [True, False])
def test_an_adapter_with_a_pickle_beside_another_safetensors_file(folder, adapter, canary, is_harmful):
    weights = adapter / "adapter_model.safetensors"
    if is_harmful:
        (adapter / "adapter_model.bin").write_bytes(canary.pickle)
    else:
        torch.save(load_file(weights), adapter / "adapter_model.bin")
    weights.rename(adapter / "adapter_model_old.safetensors")
    for path, named, key in ((adapter, None, "model.path"), (folder, str(adapter), "model.adapter")):
        with raises(ModelError, "only_pickles", key=key, mentions=["adapter_model.bin"]):
            load_policy(ModelSettings(str(path), adapter=named))
    assert not canary.sang


def test_an_adapter_inside_a_model_folder(folder, adapter, canary):
    """transformers would put it on by itself, and open its pickle."""
    (folder / "adapter_config.json").write_text((adapter / "adapter_config.json").read_text())
    (folder / "adapter_model.bin").write_bytes(canary.pickle)
    with raises(ModelError, "conflict", key="model.path", mentions=["adapter_config.json", "model.adapter"]):
        load_policy(ModelSettings(str(folder)))
    assert not canary.sang


def test_no_pickle_is_opened_by_another_way(tmp_path, canary):
    """The last guard: while a model is loaded, torch opens no pickle at all."""
    file = tmp_path / "x.bin"
    file.write_bytes(canary.pickle)
    before = torch.load
    with raises(ModelError, "only_pickles", key="judge.model", mentions=[str(file)]), without_pickles("judge.model"):
        torch.load(file, weights_only=False)
    assert torch.load is before
    assert not canary.sang
    with pytest.raises(RuntimeError, match="magic"):  # it was opened, and is no file of torch
        torch.load(file, weights_only=False)
    assert canary.sang, "outside, torch is as it was"


def test_a_judge_with_a_pickle(tmp_path, canary, make_classifier, write_tokenizer):
    path = tmp_path / "judge"
    make_classifier("llama", torch.float32).save_pretrained(path)
    write_tokenizer(path, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    (path / "model.safetensors").unlink()
    (path / "x.bin").write_bytes(canary.pickle)
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": {"a": "x.bin"}}))
    with raises(ModelError, "only_pickles", key="judge.model"):
        PairClassifier(str(path))
    assert not canary.sang


AUTO_MAP = {
    "AutoConfig": "code.Config",
    "AutoModelForCausalLM": "code.Model",
    "AutoTokenizer": ["code.Words", "code.Words"],
}


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("is_known", [True, False])
def test_code_of_a_folder_does_not_run(folder, canary, file, is_known):
    """A folder whose `auto_map` names Python files is refused, or loaded with the classes of transformers."""
    (folder / "code.py").write_text(canary.source)
    change(folder / file, auto_map=AUTO_MAP)
    if not is_known:
        change(folder / file, model_type="not-known") if file == "config.json" else change(
            folder / file, tokenizer_class="NotKnown"
        )
    for load in (load_policy, load_tokenizer):
        with contextlib.nullcontext() if is_known else pytest.raises(TiltError) as caught:
            load(ModelSettings(str(folder)))
        assert is_known or caught.value.key == "model.path"
        assert is_known or file != "config.json" or "model.revision" in str(caught.value)
        assert not canary.sang


def test_code_is_only_allowed_for_a_named_revision_of_a_name_on_the_hub(folder):
    for path, revision in ((str(folder), None), (str(folder), "0" * 40), ("owner/name", None)):
        with raises(ConfigError, "unpinned_code", key="model.trust_remote_code"):
            ModelSettings(path, revision=revision, trust_remote_code=True)


@pytest.mark.parametrize("name", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_a_configuration_that_names_a_kernel_of_the_hub(folder, name):
    """A kernel is code that transformers would download and run."""
    change(folder / "config.json", **{name: "someone/kernel"})
    with raises(ModelError, "remote_code", key="model.path", mentions=["someone/kernel", "config.json"]):
        load_policy(ModelSettings(str(folder)))


ESCAPES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('touch CANARY') }}",
    "{{ lipsum.__globals__['os'].popen('touch CANARY').read() }}",
    "{{ self.__init__.__globals__.__builtins__.__import__('os').system('touch CANARY') }}",
    "{{ (messages.__class__.__base__.__subclasses__()) }}",
    "{% set x = messages.append({}) %}{{ messages }}",
)


@pytest.mark.parametrize("template", ESCAPES)
def test_a_chat_template_that_leaves_its_sandbox(folder, canary, tmp_path, template):
    """It is a defect of the rows: jinja's sandbox refuses it."""
    change(folder / "tokenizer_config.json", chat_template=template.replace("CANARY", str(canary.file)))
    messages = [{"role": "user", "content": "w1"}]
    chosen, rejected = ([{"role": "assistant", "content": word}] for word in ("w2", "w3"))
    row = {"prompt": messages, "chosen": chosen, "rejected": rejected}
    data = tmp_path / "pairs.jsonl"
    data.write_text(json.dumps(row) + "\n")
    with raises(DataError, "no_rows_left", mentions=["template_error", "access to attribute"]):
        tiltlm.preview(model=folder, data=data)
    assert not canary.sang


def test_transformers_has_closed_its_own_holes():
    """CVE-2026-4372: before 5.3 a configuration alone could name code to run."""
    assert tuple(map(int, transformers.__version__.split(".")[:2])) >= (5, 3)
