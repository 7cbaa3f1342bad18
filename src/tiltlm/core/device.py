"""Apply one operation to every tensor of a frozen dataclass: move to a device, or detach from the autograd graph."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import torch

Noun = TypeVar("Noun")


def to_device(noun: Noun, device: torch.device | str) -> Noun:
    """Return the dataclass with all its tensors on `device`; tensors that are there already are shared."""
    return _replace_tensors(noun, lambda tensor: tensor.to(device, non_blocking=True))


def detached(noun: Noun) -> Noun:
    """Return the dataclass without gradient, so that storing it does not keep the forward's graph in memory."""
    return _replace_tensors(noun, lambda tensor: tensor.detach())


def _replace_tensors(noun: Noun, change: Callable[[torch.Tensor], torch.Tensor]) -> Noun:
    """Return the dataclass with `change` applied to its tensors, those in mappings and those of its `parts`."""
    changed: dict[str, Any] = {}
    for name, value in vars(noun).items():
        if isinstance(value, torch.Tensor):
            changed[name] = change(value)
        elif isinstance(value, Mapping):
            changed[name] = {key: change(tensor) for key, tensor in value.items()}
        elif name == "parts":
            changed[name] = tuple(_replace_tensors(part, change) for part in value)
    return replace(noun, **changed)  # type: ignore[type-var]
