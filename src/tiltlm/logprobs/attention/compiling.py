"""`torch.compile`, layer by layer: norms, rotations and activations become a few kernels each.

Decoder layers are compiled in place, each separately, so that one compilation serves all layers of a kind. Attention
runs uncompiled between their pieces (the compiler is disabled in `forest_attention`), and the number of tokens is a
variable: no other layout and no other length compiles anything again.
"""

from typing import Any

from torch._dynamo import config

from tiltlm.core.errors import ModelError
from tiltlm.logprobs.attention.last_layer import decoder_layers, is_trimmed
from tiltlm.logprobs.checkpointing import is_checkpointed

VARIANTS = 64
"""Compilations of one function that are kept: kinds of layers, with gradient and without, adapters on and off, dtypes.
Beyond torch's own limit of 8 it would run uncompiled code without any warning."""


def compile_layers(model: Any, backend: str = "inductor") -> None:
    """Compile the decoder layers of a transformers model in place; each is compiled at its first call.

    The last layer is not compiled where its pieces have hooks. Under gradient checkpointing the pieces of a layer are
    compiled instead of the layer, inside the recomputed part.

    Raises:
        ModelError: the model does not name its decoder layers.
    """
    layers = [layer for layer in decoder_layers(model) if not is_trimmed(layer)]
    if not layers:
        raise ModelError(
            f"model.compile: {type(model).__name__} has no layers that could be compiled; leave it off",
            code="not_supported",
            key="model.compile",
        )
    allow_variants()
    for layer in layers:
        for part in layer.children() if is_checkpointed(layer) else [layer]:
            part.compile(dynamic=True, backend=backend)


def allow_variants() -> None:
    """Let this process keep `VARIANTS` compilations of a function."""
    config.recompile_limit = max(config.recompile_limit, VARIANTS)
