"""Where the memory of a training step goes: weights, gradients, the optimiser's state, what the forward keeps.

    python benchmarks/memory.py [--shape micro] [--max-tokens 4096] [--json FILE]

Bytes are counted, not sampled: the optimiser's from its state, the forward's from the tensors that autograd keeps for
the backward pass, each storage once. The forward is float32 on a CPU, with the shared layout, over pairs of a prompt of
128 tokens and two responses of 64; in bf16 what it keeps is about half. The 8-bit row needs the extra `quant`.
"""

import argparse
import importlib.util
import json
from pathlib import Path

import numpy as np
import torch
from sampling import VOCABULARIES, build
from workload import SHAPES

from tiltlm.core.example import Response, token_ids
from tiltlm.core.forest import Forest, Tree, pack_trees
from tiltlm.logprobs import PolicyModule
from tiltlm.logprobs.checkpointing import enable_checkpointing
from tiltlm.training.checkpoints.tensors import optimizer_tensors
from tiltlm.training.optim.optimizer import build_optimizer
from tiltlm.training.training_settings import TrainingSettings

PROMPT, RESPONSE = 128, 64


def make_forest(max_tokens: int, vocabulary: int) -> Forest:
    """As many pairs as fit."""
    rng = np.random.default_rng(0)

    def words(count: int) -> np.ndarray:
        return token_ids(rng.integers(1, vocabulary, count))

    pairs = max_tokens // (PROMPT + 2 * RESPONSE)
    return pack_trees(
        [Tree(words(PROMPT), (Response(words(RESPONSE)), Response(words(RESPONSE)))) for _ in range(pairs)]
    )


def kept_bytes(policy: PolicyModule, forest: Forest) -> int:
    """What autograd holds between forward and backward, the weights aside."""
    weights = {p.untyped_storage().data_ptr() for p in policy.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def see(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(see, lambda tensor: tensor):
        loss = policy(forest).token_logps.sum()
    num_bytes = sum(storage.nbytes() for storage in kept.values())
    loss.backward()
    return num_bytes


def measure(shape: str, max_tokens: int) -> dict[str, int]:
    """Bytes by what holds them."""
    vocabulary = VOCABULARIES[shape]
    model, forest = build(SHAPES[shape], vocabulary, ending=False, device="cpu"), make_forest(max_tokens, vocabulary)
    policy = PolicyModule(model, "shared")
    num_parameters = sum(p.numel() for p in policy.parameters())
    found = {"parameters (count)": num_parameters, "weights": 4 * num_parameters, "gradients": 4 * num_parameters}
    found["kept by the forward"] = kept_bytes(policy, forest)
    enable_checkpointing(model)
    found["kept, gradient_checkpointing"] = kept_bytes(policy, forest)
    kinds = ("adamw", "adamw_8bit") if importlib.util.find_spec("bitsandbytes") else ("adamw",)
    for kind in kinds:
        optimizer = build_optimizer(policy, TrainingSettings(optimizer=kind), 1e-6)
        optimizer.step()
        tensors = optimizer_tensors(policy, optimizer).values()
        found[f"optimiser, {kind}"] = sum(t.numel() * t.element_size() for t in tensors)
    found["logits of every token, which are never made"] = 4 * max_tokens * vocabulary
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(VOCABULARIES), default="micro")
    parser.add_argument("--max-tokens", type=int, default=4096)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = measure(given.shape, given.max_tokens)
    for name, count in found.items():
        print(f"{name:45} {count / 1e6:10.1f} million")
    if given.json is not None:
        given.json.write_text(json.dumps({"shape": given.shape, "max_tokens": given.max_tokens, **found}, indent=2))


if __name__ == "__main__":
    main()
