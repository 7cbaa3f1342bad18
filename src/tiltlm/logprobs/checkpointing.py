"""Activation checkpointing: decoder layers keep only their inputs, and compute the rest again in the backward pass.

transformers' own switch acts in training mode only. Here a model always runs in evaluation mode: training mode draws
random numbers (dropout, noise, in PhiMoE the experts themselves), so its log-probabilities are not the model's.
"""

from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint

from tiltlm.core.errors import ConfigError, ModelError


def enable_checkpointing(model: Any, offload: bool = False) -> None:
    """Enable activation checkpointing in a transformers or PEFT model.

    Args:
        model: The model.
        offload: Hold the kept activations in the host's memory.

    Raises:
        ModelError: the architecture does not support it.
        ConfigError: offloading has no effect.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
    if not model.supports_gradient_checkpointing or not layers:
        raise ModelError(
            "model.gradient_checkpointing: this architecture does not support it; leave it off",
            code="not_supported",
            key="model.gradient_checkpointing",
        )
    if offload and next(model.parameters()).device.type == "cpu":
        raise ConfigError(
            "model.activation_offload moves activations to the host, and this model is there already; leave it off",
            code="no_effect",
            key="model.activation_offload",
        )
    for layer in layers:
        checkpoint_layer(layer, offload)


def checkpoint_layer(layer: nn.Module, offload: bool = False) -> None:
    """Checkpoint one layer. Its `forward` is replaced, so that hooks of the layer stay outside the recomputed part."""
    # `partial` and not a closure: a copy of the layer gets one of its own.
    layer.forward = partial(_recomputed, layer.forward, offload)


def is_checkpointed(layer: nn.Module) -> bool:
    """Return whether this layer computes its activations again in the backward pass."""
    forward = layer.__dict__.get("forward")
    return isinstance(forward, partial) and forward.func is _recomputed


def _recomputed(forward: Any, offload: bool, *inputs: Any, **keywords: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs, **keywords)
    with save_on_cpu(pin_memory=True) if offload else nullcontext():
        return checkpoint(forward, *inputs, use_reentrant=False, **keywords)
