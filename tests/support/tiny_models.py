"""Configurations of tiny random models of many families."""

from typing import Any

import numpy as np

from tiltlm.core.example import TokenIds, token_ids

VOCABULARY = 61
WINDOW = 6

BASE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
LEARNED = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", BASE),
    "llama_tied": ("LlamaConfig", {**BASE, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2Config", BASE),
    "qwen3": ("Qwen3Config", {**BASE, "head_dim": 16}),
    "mistral": ("MistralConfig", {**BASE, "sliding_window": WINDOW}),
    "gemma2": ("Gemma2Config", {**BASE, "head_dim": 8, "sliding_window": WINDOW, "query_pre_attn_scalar": 8}),
    "gemma3": ("Gemma3TextConfig", {**BASE, "head_dim": 8, "sliding_window": WINDOW, "num_hidden_layers": 6}),
    "phi3": ("Phi3Config", BASE),
    "gpt2": ("GPT2Config", {**LEARNED, **SPECIAL}),
    "gpt_neox": ("GPTNeoXConfig", {k: v for k, v in BASE.items() if k != "num_key_value_heads"}),
    "olmo2": ("Olmo2Config", BASE),
    "cohere": ("CohereConfig", BASE),
    "granite": ("GraniteConfig", {**BASE, "logits_scaling": 4.0, "attention_multiplier": 0.3}),
    "mixtral": ("MixtralConfig", {**BASE, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "phimoe": ("PhimoeConfig", {**BASE, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3_moe": ("Qwen3MoeConfig", {**BASE, **EXPERTS, "head_dim": 16}),
    "gpt_oss": (
        "GptOssConfig",
        {
            **BASE, "head_dim": 8, "sliding_window": WINDOW, "num_local_experts": 4, "num_experts_per_tok": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
    ),
    "opt": (
        "OPTConfig",
        {
            "vocab_size": VOCABULARY, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "max_position_embeddings": 128, "word_embed_proj_dim": 16, "pad_token_id": 0,
        },
    ),
    "bloom": ("BloomConfig", {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "gptj": ("GPTJConfig", {**LEARNED, **SPECIAL, "rotary_dim": 8}),
    "mamba": ("MambaConfig", {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}),
    "qwen3_next": (
        "Qwen3NextConfig",
        {
            **BASE, **EXPERTS, "head_dim": 16, "shared_expert_intermediate_size": 24, "num_hidden_layers": 4,
            "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
        },
    ),
}  # fmt: skip


def draw(rng: np.random.Generator, length: int) -> TokenIds:
    """Draw random token ids without the special tokens."""
    return token_ids(rng.integers(3, VOCABULARY, length))
