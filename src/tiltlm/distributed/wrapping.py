"""Data-parallel wrappers of a policy, and whole tensors of a sharded one.

The wrappers are torch's own, the same code on gloo and NCCL. With one process every function here does nothing.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
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
    """Whether there is anybody to share with: to ask early.

    Raises:
        ConfigError: sharding is asked for and this process is alone.
    """
    if parallel == "shard" and ranks.size == 1:
        raise ConfigError(
            "training.parallel=shard needs several processes; start them with `torchrun --nproc-per-node N -m tiltlm` "
            "or `accelerate launch --multi_gpu -m tiltlm`",
            code="needs_several_processes",
            key="training.parallel",
        )


def wrap(policy: nn.Module, ranks: Ranks, parallel: Parallel) -> nn.Module:
    """The module to call, always through its `__call__`: a call past the wrapper would leave ranks unsynchronised.

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
    """Decoder layers, then the policy as the root. FSDP finds tensors to watch through pytree, so what it returns
    must be a node of it, or the backward would start without the root's weights."""
    for noun in (ResponseLogps, ResponseScores):
        if noun not in _pytree.SUPPORTED_NODES:
            torch.export.register_dataclass(noun)
    mesh = init_device_mesh(ranks.device.type, (ranks.size,))
    layers = getattr(policy, "_no_split_modules", None) or ()
    for module in policy.modules():
        if type(module).__name__ in layers:
            fully_shard(module, mesh=mesh)
    fully_shard(policy, mesh=mesh)
    return policy


@contextmanager
def synchronised(module: nn.Module, last: bool) -> Iterator[None]:
    """Around one forward and backward: replicas average their gradients once, in the last backward of a step.

    Shards average in every backward: keeping whole gradients from pack to pack would cost what sharding saves.
    """
    if isinstance(module, DistributedDataParallel) and not last:
        with module.no_sync():
            yield
    else:
        yield


def full_tensor(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be sharded; all processes must ask together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def laid_out_as(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor laid out as `parameter` is: on its device, and sharded where it is."""
    tensor = tensor.to(parameter.device)
    if isinstance(parameter, DTensor):
        return distribute_tensor(tensor, parameter.device_mesh, parameter.placements)
    return tensor


def reshard(policy: nn.Module) -> None:
    """Have the parameters of a sharded policy be its shards: between a forward without gradient and the next, those of
    its root are the gathered copies. The next forward gathers anew."""
    for module in policy.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


@contextmanager
def trainable_copy(policy: Module, parallel: Parallel, aside: bool) -> Iterator[Module]:
    """The module to train inside, so that afterwards `policy` is whole in every process and has its weights.

    Replicas train the policy itself. Sharding changes a module for good, so a copy is sharded; what has the policy's
    untrained weights from the policy itself, such as a reference with adapters off, stays right meanwhile.

    Args:
        policy: Whole, as loaded; all processes enter and leave together.
        parallel: As for `wrap`.
        aside: Nobody calls the policy meanwhile; while its copy is sharded, it leaves the device free.
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
    """Copy the weights that train into a whole module of the same names, one by one; all processes together."""
    reshard(trained)
    own = dict(policy.named_parameters())
    for name, parameter in trained.named_parameters():
        if parameter.requires_grad:
            own[name].copy_(full_tensor(parameter))
