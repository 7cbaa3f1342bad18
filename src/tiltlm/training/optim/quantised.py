"""AdamW whose memory is 8 bits a number, from bitsandbytes: a quarter of the optimiser's memory, and a little noise.

Built and allocated here; what a checkpoint keeps of it is `optim.py`'s. The paged kind lets the driver move that memory
to the host while the device is short of it.
"""

from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer

from tiltlm.core.errors import ConfigError

Quantised = Literal["adamw_8bit", "paged_adamw_8bit"]
DEVICES = {"adamw_8bit": ("cpu", "cuda"), "paged_adamw_8bit": ("cuda",)}


def build_quantised(policy: nn.Module, name: Quantised, groups: list[dict[str, Any]], **knobs: Any) -> Optimizer:
    """The optimiser of that name over these groups of the policy's parameters.

    Embeddings, and tensors of fewer than 4,096 numbers, keep 32 bits: a row of a rare token has small moments in a
    block with large ones, and 8 bits would round them away.

    Args:
        policy: Tells which parameters are embeddings.
        name: Which of the two.
        groups: As torch's optimisers take them.
        knobs: lr, betas and eps, as of torch's AdamW.

    Raises:
        ConfigError: bitsandbytes is not installed, or does not run on the parameters' device.
    """
    devices = {p.device.type for group in groups for p in group["params"]}
    if odd := sorted(devices - set(DEVICES[name])):
        raise ConfigError(
            f"training.optimizer={name} runs on {' and '.join(DEVICES[name])}, and the model is on {odd[0]}; use adamw",
            code="unsupported_device",
            key="training.optimizer",
        )
    try:
        from bitsandbytes import optim
    except ImportError as error:
        raise ConfigError(
            f"training.optimizer={name} needs bitsandbytes: pip install 'tiltlm[quant]', or use adamw",
            code="missing_dependency",
            key="training.optimizer",
        ) from error
    kind = optim.AdamW8bit if name == "adamw_8bit" else optim.PagedAdamW8bit
    optimizer: Any = kind(groups, **knobs)
    optimizer.mng = optim.GlobalOptimManager.__new__(optim.GlobalOptimManager)  # its own: the global one never forgets
    optimizer.mng.initialize()
    for module in policy.modules():
        if isinstance(module, nn.Embedding):
            optimizer.mng.override_config(module.weight, "optim_bits", 32)
    made: Optimizer = optimizer
    return made


@torch.no_grad()
def allocate(optimizer: Any) -> None:
    """Give every parameter the memory that its first step would give it, without a step."""
    for i, group in enumerate(optimizer.param_groups):
        for j, p in enumerate(group["params"]):
            optimizer.init_state(group, p, i, j)
