"""Moving nouns between devices, and out of graphs: every tensor of a frozen dataclass at once."""

from dataclasses import replace
from typing import Any, TypeVar

import torch

Noun = TypeVar("Noun")


def to_device(noun: Noun, device: torch.device | str) -> Noun:
    """The same dataclass with its tensors, and those of its parts, on `device`; tensors already there are shared."""
    moved: dict[str, Any] = {}
    for name, value in vars(noun).items():
        if isinstance(value, torch.Tensor):
            moved[name] = value.to(device, non_blocking=True)
        elif name == "parts":
            moved[name] = tuple(to_device(part, device) for part in value)
    return replace(noun, **moved)  # type: ignore[type-var]


def detached(noun: Noun) -> Noun:
    """The same dataclass without gradient: kept, it keeps nothing of the forward that made it."""
    cut = {name: value.detach() for name, value in vars(noun).items() if isinstance(value, torch.Tensor)}
    return replace(noun, **cut)  # type: ignore[type-var]
