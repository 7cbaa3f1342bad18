"""Two and four processes are one: gradients at every step, and weights, for models that were loaded in shards."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers

from support.launching import launch_module
from support.sharded_steps import MODELS, OBJECTIVES, SETTINGS, STEPS
from tiltlm.worlds import TextWorld

pytestmark = pytest.mark.long
WAYS = {2: ("replicate", "shard"), 4: ("shard", "hybrid")}


def write_models(folder: Path) -> None:
    """Write a model with tied embeddings and one without, each with the tokenizer of the text world."""
    source = Path(TextWorld().model_path())
    for tied in (False, True):
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=130, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
            num_key_value_heads=1, tie_word_embeddings=tied, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        )  # fmt: skip
        target = folder / ("tied" if tied else "untied")
        transformers.LlamaForCausalLM(config).save_pretrained(target)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(source / name, target / name)


@pytest.mark.parametrize("num", WAYS)
def test_several_processes_have_the_gradients_and_weights_of_one(num, tmp_path):
    """In float64, where rounding hides nothing: full and LoRA, tied and not, layers computed again or not."""
    write_models(tmp_path)
    launch_module("support.sharded_steps", tmp_path, num=num, seconds=900)
    results = json.loads((tmp_path / f"results-{num}.json").read_text())
    assert len(results) == len(WAYS[num]) * len(OBJECTIVES) * len(MODELS)
    rate = SETTINGS.learning_rate
    for title, found in results.items():
        assert found["gradient"] <= 1e-6, title
        assert found["weights"] <= 0.05 * rate * STEPS, title
        assert found["moved"] > 0.5 * rate, title
        is_sharded = not title.startswith("replicate")
        assert found["dtensors"] == found["sharded"] == is_sharded, title
