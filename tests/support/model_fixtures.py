"""Fixtures: tiny random models of many families, and a few ragged trees."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

from support.tiny_models import FAMILIES, draw
from tiltlm.core.example import Response
from tiltlm.core.forest import Tree


@pytest.fixture
def make_model() -> Callable[..., Any]:
    """Return `make_model(family, dtype=…, **changes)`, which makes a tiny random model without dropout."""

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
    """Return `make_classifier(family, dtype=…, **changes)`: the same body with a score head; scores are of size 1."""

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
    """Return `write_tokenizer(folder, eos_token=…, …)`, which writes a word tokenizer into a model's folder."""

    def write(folder: Path, **special: str) -> None:
        vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", *(f"w{i}" for i in range(50))])}
        words = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        transformers.PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)

    return write


@pytest.fixture
def trees() -> list[Tree]:
    """Return trees with a one-token response between longer ones, a one-token prompt, and prompts beyond the window."""
    rng = np.random.default_rng(0)
    lengths = [(9, (5, 1, 12)), (1, (4,)), (17, (3, 8))]
    return [Tree(draw(rng, p), tuple(Response(draw(rng, r)) for r in responses)) for p, responses in lengths]


@pytest.fixture
def weights(trees: list[Tree]) -> Tensor:
    """Return a random weight for every scored token: the loss Σ w·logp depends on each of them."""
    count = sum(r.num_tokens for tree in trees for r in tree.responses)
    return torch.randn(count, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def gradients() -> Callable[[Any, Tensor], list[Tensor]]:
    """Return `gradients(model, loss)`: of all trainable parameters, zeros where the loss does not depend on one."""

    def measure(model: Any, loss: Tensor) -> list[Tensor]:
        parameters = [p for p in model.parameters() if p.requires_grad]
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]

    return measure


@pytest.fixture
def close() -> Callable[..., bool]:
    """Return `close(gradients, expected, tolerance)`: the deviation is relative to the largest gradient of all."""

    def compare(found: list[Tensor], expected: list[Tensor], tolerance: float) -> bool:
        scale = max(float(e.abs().max()) for e in expected)
        error = max(float((f.double() - e.double()).abs().max()) for f, e in zip(found, expected, strict=True))
        return scale > 0 and error <= tolerance * scale

    return compare
