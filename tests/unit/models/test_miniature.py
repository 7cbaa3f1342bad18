"""The miniature of a sharded model has every kind of layer, and as few layers as that needs."""

import torch
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, MixtralConfig

from tiltlm.logprobs.attention.last_layer import decoder_layers
from tiltlm.models.sharded.miniature import make_miniature, num_needed

SIZES = {
    "vocab_size": 32, "hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2, "num_key_value_heads": 1,
    "head_dim": 4, "pad_token_id": 0,
}  # fmt: skip


def layers_of(config) -> int:
    model, how = make_miniature(AutoModelForCausalLM, config, dtype=torch.float32)
    size = len(decoder_layers(model))
    assert f"first {size} of {config.num_hidden_layers} layers" in how
    return size


def test_equal_layers_need_two():
    assert layers_of(LlamaConfig(**SIZES, num_hidden_layers=7)) == 2
    assert layers_of(MixtralConfig(**SIZES, num_hidden_layers=5, num_local_experts=2)) == 2


def test_a_kind_that_comes_late_is_there_too():
    """Gemma 3 has five layers with a window before one without."""
    config = Gemma3TextConfig(**SIZES, num_hidden_layers=13, sliding_window=4)
    assert layers_of(config) == 6
    assert config.num_hidden_layers == len(config.layer_types) == 13


def test_a_model_of_one_layer_is_its_own_miniature():
    assert layers_of(LlamaConfig(**SIZES, num_hidden_layers=1)) == 1


def test_the_random_state_stays_as_it_is():
    before = torch.random.get_rng_state()
    layers_of(LlamaConfig(**SIZES, num_hidden_layers=3))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_first_layers_up_to_the_last_new_kind_are_needed():
    assert num_needed(["a", "a", "b", "a"]) == 3
    assert num_needed(["a"]) == 1
    assert num_needed([]) == 0
