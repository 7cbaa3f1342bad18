"""A tiny configuration of any causal language model: the defaults of its class with every size made small.

One table of sizes is enough for nearly all, since transformers uses the same names. `OVERRIDES` has the exceptions by
model type. Lists with one entry per layer are cut at the same layers, so that each kind of layer occurs once.
"""

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

VOCABULARY = 61
REACH = 6
"""Windows, chunks and selections of keys in a configuration that is `near`: they change the result for a few tokens."""

SIZES: dict[str, int] = {
    **dict.fromkeys(("vocab_size", "decoder_vocab_size", "unpadded_vocab_size"), VOCABULARY),
    "vocab_size_per_layer_input": VOCABULARY,
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "emb_dim", "embedding_dim", "embedding_size"), 32),
    **dict.fromkeys(("input_embedding_size", "output_embedding_size", "word_embed_proj_dim", "lru_width"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "ffn_hidden_size"), 48),
    **dict.fromkeys(("dim_ff", "dff", "n_inner", "d_inner", "feed_forward_size", "intermediate_size_mlp"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 24),
    **dict.fromkeys(("shared_experts_intermediate_size", "dense_intermediate_size", "shared_intermediate_size"), 24),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_encoder_layers", "num_decoder_layers", "num_blocks"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("num_encoder_attention_heads", "num_decoder_attention_heads", "swa_num_attention_heads"), 4),
    "index_n_heads": 16,  # a selection by few heads has equal scores, and rounding decides
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads"), 2),
    **dict.fromkeys(("head_dim", "swa_head_dim", "dim_head", "d_head", "kv_channels", "attention_head_size"), 8),
    **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "index_head_dim", "linear_head_dim"), 8),
    "rotary_dim": 4,
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank", "laurel_rank", "hc_lowrank", "d_rel"), 16),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k"), 2),
    **dict.fromkeys(("n_group", "topk_group", "num_expert_group", "n_shared_experts", "num_shared_experts"), 1),
    "adapter_in_dim": 32,
    "adapter_input_size": 32,
    "hidden_size_global": 32,
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_target_positions"), 128),
    **dict.fromkeys(("context_length", "max_seq_len", "max_source_positions", "model_max_length"), 128),
    **dict.fromkeys(("state_size", "mamba_d_state", "ssm_state_size"), 8),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "n_mamba_heads"), 4),
    "linear_num_key_heads": 2,
    **dict.fromkeys(("linear_num_value_heads", "linear_num_heads"), 4),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim"), 16),
    **dict.fromkeys(("time_step_rank", "mamba_dt_rank"), 4),
    **dict.fromkeys(("shape_vocab_size", "pronunciation_vocab_size"), VOCABULARY),
    **dict.fromkeys(("shape_embed_dim", "pronunciation_embed_dim"), 16),
    "hidden_size_per_layer_input": 8,
    "num_kv_shared_layers": 0,
    "first_k_dense_replace": 1,
    "query_pre_attn_scalar": 8,
    "encoder_hash_byte_group_vocab": 50,
}  # fmt: skip
"""Sizes by the names that configurations give them."""

REACHES: dict[str, int] = {
    "sliding_window": REACH,
    "sliding_window_size": REACH,
    "attention_chunk_size": REACH,
    "attention_window_size": REACH,
    "local_attention": REACH,
    "window_size": REACH,
    "keep_window_size": REACH,
    "index_topk": REACH,
    "index_block_size": 2,
    "index_topk_blocks": 2,
    "floor_scale": 4,
    "log_scaling_n_floor": 4,
    "rel_extent": REACH,
    "indexer_budget": 4,
}
"""Numbers of tokens beyond which a model computes something else. Their defaults do not change short examples."""

UNSET = ("head_dim", "num_key_value_heads", "n_routed_experts", "n_shared_experts", "num_experts_per_tok")
"""Sizes that are also set where a class leaves them None: some classes need them."""

WINDOWED = {
    "use_sliding_window": True,
    "sliding_window": 4096,
    "layer_types": ["full_attention", "sliding_attention"],
}
"""For classes that have windows only on request."""

OVERRIDES: dict[str, dict[str, Any]] = {
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 10000.0} for kind in ("sliding_attention", "full_attention")
        },
    },
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "kv_n_heads": 2, "clip_qkv": 8.0}},
    "dots1": {"layer_types": ["full_attention", "sliding_attention"]},
    "dots3_note_text": {
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 4,
        "swa_q_lora_rank": 16,
        "swa_kv_lora_rank": 16,
        "swa_head_dim": 16,
        "swa_qk_nope_head_dim": 8,
        "swa_v_head_dim": 8,
    },
    "falcon_h1": {"mamba_d_head": 16, "mamba_d_ssm": 64},
    "gemma3n_text": {"intermediate_size": 48},
    "laguna": {"layer_types": ["sliding_attention", "full_attention"]},
    "lfm2": {
        "layer_types": ["conv", "full_attention", "conv"],
        "full_attn_idxs": None,
        "num_hidden_layers": 3,
    },
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "full_attention"], "num_hidden_layers": 4},
    "llama4_text": {
        "num_hidden_layers": 4,
        "layer_types": ["chunked_attention"] * 3 + ["full_attention"],
        "no_rope_layers": [1, 1, 1, 0],
        "moe_layers": [1, 3],
    },
    "mellum": {"layer_types": ["sliding_attention", "full_attention"]},
    "minimax_m3_vl_text": {"layer_types": ["full_attention", "minimax_m3_sparse"]},
    "mamba2": {"head_dim": 16, "n_groups": 1},
    "nemotron_h": {"n_groups": 1},
    "qwen2": WINDOWED,
    "qwen3": WINDOWED,
    "qwen3_moe": {"use_sliding_window": True, "sliding_window": 4096},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "qwen4_exp_text": {
        "indexer_n_heads": 16,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 64,
        "indexer_compress_ratio": 2,
    },
    "reformer": {"axial_pos_shape": (8, 16), "axial_pos_embds_dim": (16, 16), "attn_layers": ["local", "lsh"]},
    "xlm": {"causal": True},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
    },
}
"""Corrections of the tables by model type. The value None leaves a key to the class."""


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "granitemoehybrid, attention only": (
        "granitemoehybrid",
        {"layer_types": ["full_attention"] * 2, "position_embedding_type": "rope", "num_local_experts": 0},
    ),
}
"""Second configurations of a class, as released models have them, where these run in another layout: what changes."""


def tiny_config(name: str, near: bool) -> PreTrainedConfig:
    """Return the configuration of a model type or variant: small sizes, and with `near` also small reaches."""
    model_type, variant = VARIANTS.get(name, (name, {}))
    changes = _changes(AutoConfig.for_model(model_type), near)
    return AutoConfig.for_model(model_type, **changes | variant)


def _changes(config: PreTrainedConfig, near: bool) -> dict[str, Any]:
    """Return the keywords that replace a configuration's defaults, and those of the configurations inside it."""
    given = vars(config)
    changes: dict[str, Any] = {}
    for key, value in given.items():
        if isinstance(value, PreTrainedConfig):
            changes[key] = _changes(value, near and "vision" not in key and "audio" not in key)
        elif key in SIZES and isinstance(value, int) and not isinstance(value, bool):
            changes[key] = min(SIZES[key], value)
        elif key in UNSET and value is None:
            changes[key] = SIZES[key]
        elif key.endswith("_token_id") and value is not None:
            changes[key] = {"pad_token_id": 0, "bos_token_id": 1}.get(key, 2)
    if given.get("num_key_value_heads") == given.get("num_attention_heads"):
        changes["num_key_value_heads"] = SIZES["num_attention_heads"]
    if "is_decoder" in given:
        changes["is_decoder"] = True
    changes |= _cut(config) | OVERRIDES.get(config.model_type, {})
    if near:
        changes |= {key: REACHES[key] for key, value in (given | changes).items() if key in REACHES and value}
    return {key: value for key, value in changes.items() if value is not None}


def _cut(config: PreTrainedConfig) -> dict[str, Any]:
    """Return the lists with one entry per layer, cut to the first layer of each kind, and the number of layers."""
    count = getattr(config, "num_hidden_layers", None)
    lists = {key: value for key, value in vars(config).items() if isinstance(value, list) and len(value) == count}
    if not lists:
        return {}
    kinds = list(zip(*map(_hashable, lists.values()), strict=True))
    kept = sorted({kinds.index(kind) for kind in kinds})
    kept = kept if len(kept) > 1 else [0, 1]
    return {"num_hidden_layers": len(kept)} | {key: [value[i] for i in kept] for key, value in lists.items()}


def _hashable(values: list[Any]) -> list[Any]:
    return [tuple(v) if isinstance(v, list) else v for v in values]
