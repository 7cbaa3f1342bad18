"""Wrap a policy for several processes, and get whole tensors of a sharded one.

The wrappers are torch's. They are the same on gloo and NCCL. With one process every function here does nothing.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils import _pytree

from tiltlm.core.errors import ConfigError
from tiltlm.core.logps import ResponseLogps
from tiltlm.core.scores import ResponseScores
from tiltlm.distributed.ranks import Ranks

Module = TypeVar("Module", bound=nn.Module)
Parallel = Literal["replicate", "shard"]


def check_parallel(parallel: Parallel, ranks: Ranks) -> None:
    """Require several processes for sharding. Call it before anything is loaded.

    Raises:
        ConfigError: `parallel` is "shard" and there is one process.
    """
    if parallel == "shard" and ranks.size == 1:
        raise ConfigError(
            "training.parallel=shard needs several processes; start them with `torchrun --nproc-per-node N -m tiltlm` "
            "or `accelerate launch --multi_gpu -m tiltlm`",
            code="needs_several_processes",
            key="training.parallel",
        )


def wrap(policy: nn.Module, ranks: Ranks, parallel: Parallel) -> nn.Module:
    """Return the module to call in training. A call of the policy itself would leave the ranks unsynchronised.

    Raises:
        ConfigError: as `check_parallel`.
    """
    check_parallel(parallel, ranks)
    if parallel == "shard":
        return _shard(policy, ranks)
    if ranks.size == 1:
        return policy
    devices = None if ranks.device.type == "cpu" else [ranks.device]
    return DistributedDataParallel(policy, device_ids=devices, gradient_as_bucket_view=True)


def _shard(policy: nn.Module, ranks: Ranks) -> nn.Module:
    """Shard the decoder layers, then the policy as the root.

    FSDP finds the tensors of an output through pytree. Output classes must be registered there, or the backward would
    start without the weights of the root.
    """
    for noun in (ResponseLogps, ResponseScores):
        if noun not in _pytree.SUPPORTED_NODES:
            torch.export.register_dataclass(noun)
    mesh = init_device_mesh(ranks.device.type, (ranks.size,))
    layers = getattr(policy, "_no_split_modules", None) or ()
    for module in policy.modules():
        if type(module).__name__ in layers:
            fully_shard(module, mesh=mesh)
    fully_shard(policy, mesh=mesh)
    for method in getattr(policy, "forward_methods", ()):
        register_fsdp_forward_method(policy, method)
    return policy


def is_sharded(module: nn.Module) -> bool:
    """Return whether the module is sharded, so that all processes must run it together and equally often."""
    return isinstance(module, FSDPModule)


@contextmanager
def synchronised(module: nn.Module, last: bool) -> Iterator[None]:
    """Let replicas average their gradients only in the last backward of a step. Wraps one forward and backward.

    Shards average in every backward: keeping whole gradients between packs would need the memory that sharding saves.

    Args:
        module: The wrapped policy.
        last: True for the last forward and backward of a step.
    """
    if isinstance(module, DistributedDataParallel) and not last:
        with module.no_sync():
            yield
    else:
        yield


def full_tensor(tensor: Tensor) -> Tensor:
    """Return the whole of a tensor that may be sharded. All processes must call it together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local_part(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process holds: all of it, unless it is sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def laid_out_as(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Return a whole tensor in the layout of `parameter`: on its device, and sharded if it is.

    Every process has the same whole tensor and takes its part of it; nothing is sent.
    """
    tensor = tensor.to(parameter.device)
    if isinstance(parameter, DTensor):
        return distribute_tensor(tensor, parameter.device_mesh, parameter.placements, src_data_rank=None)
    return tensor


def reshard(policy: nn.Module) -> None:
    """Make the parameters of a sharded policy its shards again.

    After a forward without gradient the parameters of the root are gathered copies. The next forward gathers them
    again.
    """
    for module in policy.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


@contextmanager
def trainable_copy(policy: Module, parallel: Parallel, aside: bool) -> Iterator[Module]:
    """Yield the module to train in the block; after it, `policy` is whole in every process and has the trained weights.

    Replicas train the policy itself. Sharding cannot be undone, so a copy is sharded. During the block the policy keeps
    its untrained weights, which a reference with adapters off may use. All processes enter and leave together.

    Args:
        policy: The policy as loaded, not sharded.
        parallel: As for `wrap`.
        aside: True if the policy is not used in the block. It is then moved off the device while its copy trains.
    """
    if parallel == "replicate":
        yield policy
        return
    shared, device = copy.deepcopy(policy), next(policy.parameters()).device
    if aside:
        policy.to("cpu")
    yield shared
    take_weights(policy.to(device), shared)


@torch.no_grad()
def take_weights(policy: nn.Module, trained: nn.Module) -> None:
    """Copy the trained weights of a sharded module to a whole one, one at a time. All processes call it together."""
    reshard(trained)
    own = dict(policy.named_parameters())
    for name, parameter in trained.named_parameters():
        if parameter.requires_grad:
            own[name].copy_(full_tensor(parameter))
