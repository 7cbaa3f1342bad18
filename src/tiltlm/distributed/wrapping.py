"""Wrap a policy for several processes, and get whole tensors of a sharded one.

The wrappers are torch's. They are the same on gloo and NCCL. With one process every function here does nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from tiltlm.distributed.parallelism import Parallelism
from tiltlm.distributed.ranks import Ranks
from tiltlm.distributed.sharding import Sharding


def wrap(policy: nn.Module, ranks: Ranks, parallelism: Parallelism) -> nn.Module:
    """Return the module to call in training. A call of the policy itself would leave replicas unsynchronised.

    A policy that was loaded in shards is returned as it is; a whole one is sharded in place.

    Raises:
        ConfigError: these processes cannot share a module in this way.
    """
    if is_sharded(policy):
        return policy
    if sharding := Sharding.of(parallelism, ranks):
        sharding.divide(policy)
        return policy
    if ranks.size == 1:
        return policy
    devices = None if ranks.device.type == "cpu" else [ranks.device]
    return DistributedDataParallel(policy, device_ids=devices, gradient_as_bucket_view=True)


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
    if isinstance(parameter, DTensor):
        tensor = tensor.to(parameter.device_mesh.device_type)
        return distribute_tensor(tensor, parameter.device_mesh, parameter.placements, src_data_rank=None)
    return tensor.to(parameter.device)


def with_local_part(part: Tensor, parameter: DTensor) -> DTensor:
    """Return a sharded tensor in the layout of `parameter`, of which this process holds `part`."""
    mesh, placements = parameter.device_mesh, parameter.placements
    return DTensor.from_local(part, mesh, placements, run_check=False, shape=parameter.shape, stride=parameter.stride())


def reshard(policy: nn.Module) -> None:
    """Make the parameters of a sharded policy its shards again.

    After a forward without gradient the parameters of the root are gathered copies. The next forward gathers them
    again.
    """
    for module in policy.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
