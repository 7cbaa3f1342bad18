"""Tiny chat models with a long window: one with random weights, and one that always writes the same."""

from itertools import pairwise
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from support.tokenizers_and_templates import CHATML, byte_level

SAYS = "Verdict: first"


def write_chat_model(folder: Path, *, says: str | None = None) -> str:
    """Write a model folder with a ChatML template.

    Args:
        folder: Its place.
        says: What the model writes after every question, at any temperature; None: random weights.
    """
    tokenizer = byte_level(bos=False)
    tokenizer.chat_template = CHATML
    tokenizer.eos_token = "<|im_end|>"
    if says is not None:
        tokenizer.add_tokens([says])
    size = len(tokenizer)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=size, hidden_size=size + size % 2, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=4096, eos_token_id=tokenizer.eos_token_id, bos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    if says is not None:
        _write_chain(model, [tokenizer.encode("\n")[-1], tokenizer.convert_tokens_to_ids(says), tokenizer.eos_token_id])
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = 0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@torch.no_grad()
def _write_chain(model: LlamaForCausalLM, tokens: list[int]) -> None:
    """Make each token of a chain all but certain to be followed by the next one; only the last token is read."""
    layer = model.model.layers[0]
    layer.self_attn.o_proj.weight.zero_()
    layer.mlp.down_proj.weight.zero_()
    model.model.embed_tokens.weight.copy_(torch.eye(*model.model.embed_tokens.weight.shape))
    model.lm_head.weight.zero_()
    for token, following in pairwise(tokens):
        model.lm_head.weight[following, token] = 10.0
