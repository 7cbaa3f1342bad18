"""A tiny random model."""

from collections.abc import Callable

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tiltlm.logprobs import PolicyModule

VOCABULARY = 29


@pytest.fixture
def tiny_policy() -> Callable[[int], PolicyModule]:
    """A random llama by seed, large enough in its logits to differ visibly from another."""

    def make(seed: int) -> PolicyModule:
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=64,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
            initializer_range=0.3,
        )
        return PolicyModule(LlamaForCausalLM(config).eval())

    return make
