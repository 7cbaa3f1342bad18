"""A small model of the same kind: the first decoder layers, as few as have every kind of layer, with random weights.

The self-check of the layout compares whole forwards and gradients in one process. It depends on what the layers compute
and not on their weights. A sharded model is therefore checked on its miniature, before its weights are read. It is no
larger than what a process gathers in a step: a layer, the next one, and the embeddings.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from tiltlm.core.errors import ModelError
from tiltlm.logprobs.attention.last_layer import decoder_layers

FEWEST = 2
"""Decoder layers of a miniature: the last one computes less than the others."""


def make_miniature(kind: Any, config: Any, **keywords: Any) -> tuple[Any, str]:
    """Return a model with the first layers of a configuration, and a sentence that says what it is.

    Args:
        kind: An auto class of transformers.
        config: The configuration of the whole model, which stays as it is.
        keywords: Further arguments of `from_config`.

    Raises:
        ModelError: the first layers cannot be built alone.
    """
    with torch.device("meta"):
        layers = [kind_of_layer(layer) for layer in decoder_layers(kind.from_config(copy.deepcopy(config), **keywords))]
    size = num_needed(layers)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind.from_config(shortened(config, size) if layers else copy.deepcopy(config), **keywords)
    if [kind_of_layer(layer) for layer in decoder_layers(model)] != layers[:size]:
        raise ModelError(
            f"{type(model).__name__}: its first {size} layers cannot be built alone, so the layout of a sharded model "
            "cannot be checked; use training.parallel=replicate",
            code="not_supported",
            key="training.parallel",
        )
    return model.eval(), f"checked on the first {size} of {len(layers)} layers with random weights"


def kind_of_layer(layer: nn.Module) -> tuple[Any, ...]:
    """Return what a layer computes, apart from its weights: classes, shapes, switches and names of kinds."""

    def facts(module: nn.Module) -> list[Any]:
        own = {key: value for key, value in vars(module).items() if not key.startswith("_")}
        switches = {key: value for key, value in own.items() if value is None or isinstance(value, bool | str)}
        shapes = [(name, tuple(parameter.shape)) for name, parameter in module.named_parameters(recurse=False)]
        return [type(module).__name__, switches, shapes]

    return tuple(facts(module) for module in layer.modules())


def num_needed(layers: Sequence[Any]) -> int:
    """Return the smallest number of first layers that has every kind; at least `FEWEST`, where there are as many."""
    last = max(map(layers.index, layers), default=0)
    return min(len(layers), max(last + 1, FEWEST))


def shortened(config: Any, size: int) -> Any:
    """Return the configuration of a model with the first `size` layers: lists with an entry a layer are cut."""
    config = copy.deepcopy(config)
    text = config.get_text_config()
    before = text.num_hidden_layers
    for key, value in list(vars(text).items()):
        if isinstance(value, list) and len(value) == before:
            setattr(text, key, value[:size])
    text.num_hidden_layers = size
    return config
