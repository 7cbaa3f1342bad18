"""Tiny random models of many families, and a few ragged trees."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

from tiltlm.core.example import Response, TokenIds, token_ids
from tiltlm.core.forest import Tree

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


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny products gain nothing from threads, and threads that wait for each other on a busy machine cost seconds."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_model() -> Callable[..., Any]:
    """`make_model(family, dtype=…, **changes)`: a tiny random model without dropout."""

    def make(family: str, dtype: torch.dtype = torch.float64, **changes: Any) -> Any:
        name, keywords = FAMILIES[family]
        torch.manual_seed(0)
        config = getattr(transformers, name)(**{**keywords, **changes})
        model = transformers.AutoModelForCausalLM.from_config(config).eval().to(dtype)
        if hasattr(model.config, "num_experts_per_tok") and dtype == torch.float64:
            model.set_experts_implementation("eager")  # the grouped kernel has no float64
        return model

    return make


@pytest.fixture
def make_classifier() -> Callable[..., Any]:
    """`make_classifier(family, dtype=…, **changes)`: the same body with a score head, whose scores are of size 1."""

    def make(family: str = "llama", dtype: torch.dtype = torch.float64, **changes: Any) -> Any:
        name, keywords = FAMILIES[family]
        torch.manual_seed(0)
        config = getattr(transformers, name)(**{**keywords, "num_labels": 1, **changes})
        model = transformers.AutoModelForSequenceClassification.from_config(config).eval().to(dtype)
        with torch.no_grad():
            model.score.weight.mul_(20)
        if hasattr(model.config, "num_experts_per_tok") and dtype == torch.float64:
            model.set_experts_implementation("eager")
        return model

    return make


@pytest.fixture
def write_tokenizer() -> Callable[..., None]:
    """`write_tokenizer(folder, eos_token=…, …)`: one of words, into a model's folder."""

    def write(folder: Path, **special: str) -> None:
        vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", *(f"w{i}" for i in range(50))])}
        words = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        transformers.PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)

    return write


def draw(rng: np.random.Generator, length: int) -> TokenIds:
    return token_ids(rng.integers(3, VOCABULARY, length))


@pytest.fixture
def trees() -> list[Tree]:
    """Ragged: a one-token response between longer ones, a prompt of one token, prompts longer than the window."""
    rng = np.random.default_rng(0)
    lengths = [(9, (5, 1, 12)), (1, (4,)), (17, (3, 8))]
    return [Tree(draw(rng, p), tuple(Response(draw(rng, r)) for r in responses)) for p, responses in lengths]


@pytest.fixture
def weights(trees: list[Tree]) -> Tensor:
    """A random weight for every scored token: the loss Σ w·logp feels every one of them."""
    count = sum(r.num_tokens for tree in trees for r in tree.responses)
    return torch.randn(count, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def gradients() -> Callable[[Any, Tensor], list[Tensor]]:
    """`gradients(model, loss)`: of all trainable parameters; zeros where one takes no part."""

    def measure(model: Any, loss: Tensor) -> list[Tensor]:
        parameters = [p for p in model.parameters() if p.requires_grad]
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]

    return measure


@pytest.fixture
def close() -> Callable[..., bool]:
    """`close(gradients, expected, tolerance)`: largest deviation against the largest gradient of all."""

    def compare(found: list[Tensor], expected: list[Tensor], tolerance: float) -> bool:
        scale = max(float(e.abs().max()) for e in expected)
        error = max(float((f.double() - e.double()).abs().max()) for f, e in zip(found, expected, strict=True))
        return scale > 0 and error <= tolerance * scale

    return compare
