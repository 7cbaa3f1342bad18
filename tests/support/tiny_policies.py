"""Tiny random policies and trees."""

import numpy as np
import torch
import transformers

from tiltlm.core.example import Response, token_ids
from tiltlm.core.forest import Tree
from tiltlm.logprobs.policy import PolicyModule

VOCAB = 40


def make_policy(
    seed: int = 0,
    lora: bool = False,
    is_zero: bool = True,
    alpha: float = 8,
    targets: str | list[str] = "all-linear",
    **config: object,
) -> PolicyModule:
    """A random llama; the same seed gives the same weights, with an adapter around them or without."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    known = {"vocab_size": VOCAB, "num_key_value_heads": 2, **sizes, **config}
    model = transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(**known))
    if lora:
        import peft

        settings = peft.LoraConfig(r=2, lora_alpha=alpha, target_modules=targets, init_lora_weights=is_zero)
        model = peft.get_peft_model(model, settings)
    return PolicyModule(model)


def some_trees(num: int, seed: int = 0) -> list[Tree]:
    """Prompts of 3 to 8 tokens with one to three responses of 1 to 7 tokens; some score only part of a response."""
    rng = np.random.default_rng(seed)

    def ids(low: int, high: int) -> np.ndarray:
        return rng.integers(1, VOCAB, rng.integers(low, high + 1))

    trees = []
    for i in range(num):
        responses = [Response(token_ids(ids(1, 7))) for _ in range(1 + i % 3)]
        if i % 4 == 1:
            responses.append(Response(token_ids(ids(5, 7)), scored=token_ids([0, 2, 3])))
        trees.append(Tree(token_ids(ids(3, 8)), tuple(responses)))
    return trees
