"""Moving nouns between devices: every tensor of a frozen dataclass at once."""

from dataclasses import replace
from typing import Any, TypeVar

import torch

Noun = TypeVar("Noun")


def to_device(noun: Noun, device: torch.device | str) -> Noun:
    """The same dataclass with its tensors on `device`; tensors already there are shared."""
    moved: dict[str, Any] = {
        name: value.to(device, non_blocking=True)
        for name, value in vars(noun).items()
        if isinstance(value, torch.Tensor)
    }
    return replace(noun, **moved)  # type: ignore[type-var]
