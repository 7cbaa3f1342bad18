"""Models that two processes load and save in shards are those of one process, bit for bit."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from support.launching import launch_module
from tiltlm.worlds import TextWorld

pytestmark = pytest.mark.long
SIZES = {
    "vocab_size": 130, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 1,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


def write(model, folder: Path) -> None:
    source = Path(TextWorld().model_path())
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, folder / name)


def change(folder: Path, target: Path, act) -> None:
    """Write a model folder with other weights."""
    shutil.copytree(folder, target)
    weights = load_file(target / "model.safetensors")
    act(weights)
    save_file(weights, target / "model.safetensors", {"format": "pt"})


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict:
    """Return what two processes found."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    for name, tied in (("tied", True), ("untied", False)):
        config = transformers.LlamaConfig(**SIZES, num_hidden_layers=3, tie_word_embeddings=tied)
        write(transformers.LlamaForCausalLM(config), folder / name)
    config = transformers.MixtralConfig(**SIZES, num_hidden_layers=2, num_local_experts=3, num_experts_per_tok=2)
    write(transformers.MixtralForCausalLM(config), folder / "experts")
    change(folder / "untied", folder / "incomplete", lambda weights: weights.pop("model.layers.1.mlp.up_proj.weight"))
    last = "model.layers.1.mlp.up_proj.weight"
    change(folder / "untied", folder / "not_finite", lambda weights: weights[last][-1].fill_(torch.inf))
    launch_module("support.sharded_folders", folder, num=2, seconds=600)
    return json.loads((folder / "results.json").read_text())


def test_two_processes_load_and_save_what_one_does(results):
    """Policies and reward models, tied or not, full, a new adapter, a continued one, experts stored one by one."""
    assert len(results["compared"]) == 11
    for title, found in results["compared"].items():
        assert found.pop("loaded") == [], title
        assert len(set(found.pop("digests"))) == 1, title
        assert found, title
        assert all(differing == [] for differing in found.values()), (title, found)


@pytest.mark.parametrize("name", ["tied", "experts"])
def test_a_model_in_several_files_is_loaded_by_transformers(results, name):
    found = results["several files"][name]
    assert found["files"] > 1
    assert found["loaded"] == []


def test_damaged_weights_are_refused_in_all_processes(results):
    """The infinity is in the shard of one process."""
    assert results["refused"] == {"incomplete": "missing_tensors", "not_finite": "weights_not_finite"}
