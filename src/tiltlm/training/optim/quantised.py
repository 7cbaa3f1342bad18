"""AdamW with a state of 8 bits a number, from bitsandbytes: a quarter of the memory, with a little noise.

The paged kind lets the driver move the state to the host while the device is short of memory. `optimizer.py` writes the
state to checkpoints.
"""

from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer

from tiltlm.core.errors import ConfigError
from tiltlm.training.packages import check_quantised

Quantised = Literal["adamw_8bit", "paged_adamw_8bit"]
DEVICES = {"adamw_8bit": ("cpu", "cuda"), "paged_adamw_8bit": ("cuda",)}


def build_quantised(policy: nn.Module, name: Quantised, groups: list[dict[str, Any]], **options: Any) -> Optimizer:
    """Build the optimiser of that name.

    Embeddings, and tensors of fewer than 4,096 numbers, keep 32 bits: the row of a rare token has small moments in a
    block with large ones, and 8 bits would round them to 0.

    Args:
        policy: The module whose parameters are trained.
        name: Which of the two kinds.
        groups: Groups of its parameters, as torch's optimisers take them.
        **options: lr, betas and eps, as for torch's AdamW.

    Raises:
        ConfigError: bitsandbytes is not installed, or does not run on the parameters' device.
    """
    devices = {p.device.type for group in groups for p in group["params"]}
    if unsupported := sorted(devices - set(DEVICES[name])):
        raise ConfigError(
            f"training.optimizer={name} runs on {' and '.join(DEVICES[name])}, and the model is on {unsupported[0]}; "
            "use adamw",
            code="unsupported_device",
            key="training.optimizer",
        )
    check_quantised(name)
    from bitsandbytes import optim

    kind = optim.AdamW8bit if name == "adamw_8bit" else optim.PagedAdamW8bit
    optimizer: Any = kind(groups, **options)
    # A manager of its own: the global one holds the settings of every optimiser that was ever made.
    optimizer.mng = optim.GlobalOptimManager.__new__(optim.GlobalOptimManager)
    optimizer.mng.initialize()
    for module in policy.modules():
        if isinstance(module, nn.Embedding):
            optimizer.mng.override_config(module.weight, "optim_bits", 32)
    made: Optimizer = optimizer
    return made


@torch.no_grad()
def allocate(optimizer: Any) -> None:
    """Allocate the state of every parameter as its first step would, without taking a step."""
    for i, group in enumerate(optimizer.param_groups):
        for j, p in enumerate(group["params"]):
            optimizer.init_state(group, p, i, j)
