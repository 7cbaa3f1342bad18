"""Vision-language models: loaded whole, or refused with what would work."""

import pytest
import torch
import transformers

from support.errors import raises
from support.tiny_models import BASE
from tiltlm.core.errors import ModelError
from tiltlm.models.loading import load_policy
from tiltlm.models.model_settings import ModelSettings

LINEAR = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "head_dim": 16, "num_hidden_layers": 4,
}  # fmt: skip
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "depth": 1, "out_hidden_size": 32}


@pytest.fixture
def write(tmp_path, write_tokenizer):
    def write(config):
        torch.manual_seed(0)
        transformers.AutoModelForImageTextToText.from_config(config).save_pretrained(tmp_path / "model")
        write_tokenizer(tmp_path / "model", eos_token="</s>", pad_token="<pad>")
        return tmp_path / "model"

    return write


def test_a_text_part_is_not_taken_out_in_silence(write, tmp_path):
    """The way out that the message names works."""
    config = transformers.Qwen3_5Config(text_config={**BASE, **LINEAR}, vision_config=VISION, tie_word_embeddings=False)
    folder = write(config)
    with raises(
        ModelError,
        "vision_language_model",
        key="model.path",
        mentions=["vision-language model", "Qwen3_5ForConditionalGeneration", "AutoModelForCausalLM.from_pretrained"],
    ):
        load_policy(ModelSettings(str(folder)))
    transformers.AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "text")
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "text")
    assert type(load_policy(ModelSettings(str(tmp_path / "text"))).module.bare_model).__name__ == "Qwen3_5ForCausalLM"


def test_one_without_a_text_class_is_named(write):
    text = {**BASE, "model_type": "llama"}
    vision = {
        "model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "image_size": 16, "patch_size": 8, "projection_dim": 32,
    }  # fmt: skip
    folder = write(transformers.LlavaConfig(text_config=text, vision_config=vision, image_token_index=60))
    with raises(ModelError, "vision_language_model", key="model.path", mentions=["LlavaForConditionalGeneration"]):
        load_policy(ModelSettings(str(folder)))
