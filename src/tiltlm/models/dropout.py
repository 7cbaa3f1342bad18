"""Dropout is 0 everywhere.

One draw for a shared prompt differs from the draws of separate sequences. And a log-probability under dropout is not
the model's own, so it cannot be compared.
"""

import re
from typing import Any

from torch import nn

_RANDOM = re.compile(r"drop|jitter")


def remove_dropout(model: nn.Module) -> list[str]:
    """Set every dropout probability (and router noise) of a model to 0: modules, attributes, configurations.

    Adapters' dropout is included.

    Returns:
        The values that were not 0, as `name=value`, each name once.
    """
    found: dict[str, float] = {}
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            found["dropout"] = module.p
            module.p = 0.0
        for holder in (module, getattr(module, "config", None)):
            if holder is not None:
                found.update(_zero(holder))
    return [f"{name}={value:g}" for name, value in sorted(found.items())]


def _zero(holder: Any) -> dict[str, float]:
    """Set the attributes that name a dropout probability to 0, and return what they were."""
    found = {
        name: value
        for name, value in vars(holder).items()
        if _RANDOM.search(name) and isinstance(value, float) and value > 0
    }
    for name in found:
        setattr(holder, name, 0.0)
    return found
