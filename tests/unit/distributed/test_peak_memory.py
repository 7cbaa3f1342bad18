"""No process of a sharded run ever holds a whole model: its peak is its share and a constant."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers

from support.launching import launch_module
from tiltlm.worlds import TextWorld

pytestmark = pytest.mark.long
NUM = 4
SHARES = {"load": 1, "step": 4, "save": 6}
"""Shares that a process holds: weights; with gradients and moments; with its part of a file, as tensors and bytes."""
CONSTANT = 100
"""MB: the layers that are gathered, the miniature of the self-check, pages of files that the system keeps mapped."""
LAYERS = {"small": 3, "model": 24}
WIDTHS = {"small": 16, "model": 384}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[Path, float]:
    """Return a folder with a model and a small one for a first run, and the size of the model in MB."""
    folder, source, size = tmp_path_factory.mktemp("models"), Path(TextWorld().model_path()), {}
    for name, width in WIDTHS.items():
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=130, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=LAYERS[name],
            num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2,
            pad_token_id=0,
        )  # fmt: skip
        model = transformers.LlamaForCausalLM(config)
        model.save_pretrained(folder / name)
        size[name] = sum(parameter.nbytes for parameter in model.parameters()) / 1e6
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(source / file, folder / name / file)
    return folder, size["model"]


def peaks(folder: Path, tmp_path: Path, *flags: str) -> list[dict[str, float]]:
    """Return the peak of each part in each process, in MB above what it held before."""
    for name in WIDTHS:
        (tmp_path / name).symlink_to(folder / name)
    launch_module("support.peak_memory", tmp_path, *flags, num=NUM, seconds=600)
    return json.loads((tmp_path / "peaks.json").read_text())


def test_no_process_holds_more_than_its_share(models, tmp_path):
    folder, size = models
    for rank, found in enumerate(peaks(folder, tmp_path)):
        for part, shares in SHARES.items():
            assert found[part] <= shares * size / NUM + CONSTANT, (rank, part, found)


def test_a_whole_copy_would_have_been_found(models, tmp_path):
    folder, size = models
    for rank, found in enumerate(peaks(folder, tmp_path, "--whole-copy")):
        for part, shares in SHARES.items():
            assert found[part] > shares * size / NUM + CONSTANT, (rank, part, found)
