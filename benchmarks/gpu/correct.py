"""What must hold on this device before anything is timed: every route equals separate float64 forwards on the CPU."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from tiltlm.core import Response, Tree, pack_trees
from tiltlm.core.example import TokenIds, token_ids
from tiltlm.logprobs import PolicyModule
from tiltlm.logprobs.inputs import LayoutName
from tiltlm.logprobs.plain import plain_logps
from tiltlm.logprobs.precision import Precision

VOCABULARY = 512
BASE: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024, "head_dim": 64,
}  # fmt: skip
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "qwen3": ("Qwen3Config", {}),
    "mistral, window": ("MistralConfig", {"sliding_window": 20}),
    "gemma2, soft cap and window": (
        "Gemma2Config",
        {"sliding_window": 20, "query_pre_attn_scalar": 64, "attn_logit_softcapping": 1.0},
    ),
    "gpt_oss, sinks and window": (
        "GptOssConfig",
        {  # every token asks every expert: rounding must not change whom
            "sliding_window": 20, "num_local_experts": 2, "num_experts_per_tok": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
    ),
}  # fmt: skip
TOLERANCE: dict[Precision, float] = {"float32": 1e-3, "bf16": 0.05}
"""Of log-probabilities, nats; of gradients, relative to the largest."""
LENGTHS = ((150, (60, 1, 131)), (1, (4, 30)), (70, (3, 8)))
"""Tokens of prompts and responses: more and fewer than a block of a kernel, and than a window."""


def probe_trees() -> list[Tree]:
    """Random trees of `LENGTHS`."""
    rng = np.random.default_rng(0)

    def draw(length: int) -> TokenIds:
        return token_ids(rng.integers(3, VOCABULARY, length))

    return [Tree(draw(prompt), tuple(Response(draw(r)) for r in responses)) for prompt, responses in LENGTHS]


def make_model(family: str) -> Any:
    """A small random model in float32 on the CPU, its sinks and soft caps felt."""
    name, changes = FAMILIES[family]
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, name)(**{**BASE, **changes}))
    return model.eval()


def measured(model: Any, logps: Tensor) -> list[Tensor]:
    """Log-probabilities, and gradients of a random weighting of them, float64 on the CPU."""
    weights = torch.randn(len(logps), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    loss = (logps.double() * weights.to(logps.device)).sum()
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    gradients = [torch.zeros(p.shape) if g is None else g for p, g in zip(model.parameters(), found, strict=True)]
    return [t.detach().double().cpu() for t in (logps, *gradients)]


def errors(found: Sequence[Tensor], expected: Sequence[Tensor]) -> dict[str, float]:
    """Largest deviation of the values in nats, and of the gradients relative to the largest of all."""
    scale = max(float(e.abs().max()) for e in expected[1:])
    gaps = [float((f - e).abs().max()) for f, e in zip(found, expected, strict=True)]
    return {"values": gaps[0], "gradients": max(gaps[1:]) / scale}


def check(family: str, device: str) -> list[dict[str, Any]]:
    """Every layout and precision of one family, of Llama compiled too; a record each."""
    trees, small = probe_trees(), make_model(family)
    wide = copy.deepcopy(small).double()
    if hasattr(wide.config, "num_experts_per_tok"):
        wide.set_experts_implementation("eager")  # the grouped product has no float64
    wide.set_attn_implementation("eager")  # the only one that knows soft caps and sinks
    expected = measured(wide, plain_logps(wide, trees))
    records = []
    cases: list[tuple[LayoutName, bool]] = [("shared", False), ("packed", False), ("padded", False)]
    cases += [("shared", True)] if family == "llama" else []
    for layout, is_compiled in cases:
        for precision, tolerance in TOLERANCE.items():
            if is_compiled and precision == "float32":
                continue  # a minute of compiling that no run would want
            module = PolicyModule(copy.deepcopy(small).to(device), layout, precision)
            if is_compiled:
                module.compile_layers("inductor" if device == "cuda" else "eager")
            gaps = errors(measured(module.model, module(pack_trees(trees)).token_logps), expected)
            records.append(
                {
                    "family": family, "layout": layout, "compiled": is_compiled, "precision": precision, **gaps,
                    "routes": module.attention_routes(pack_trees(trees)),
                    "right": all(gap <= tolerance for gap in gaps.values()),
                }
            )  # fmt: skip
    return records
