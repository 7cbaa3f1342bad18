"""Processes and devices: who computes what, and how gradients meet.

Accelerate finds the device and starts the process group; the wrappers are torch's own, the same code on gloo and NCCL.
With one process every function here does nothing.
"""

import copy
import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils import _pytree

from tiltlm.core.errors import ConfigError
from tiltlm.core.logps import ResponseLogps
from tiltlm.core.scores import ResponseScores

Value = TypeVar("Value")
Module = TypeVar("Module", bound=nn.Module)
Parallel = Literal["replicate", "shard"]

LONGEST_WAIT = timedelta(hours=2)
"""For another process, which may be measuring, sampling or saving for all; a launcher ends those of a dead one."""


@dataclass(frozen=True)
class Ranks:
    """The processes of a run, seen from one of them."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def join(cls, cpu: bool = False) -> "Ranks":
        """The processes that the launcher (`accelerate launch`, `torchrun`) started, or this one alone."""
        cpu = cpu or not torch.cuda.is_available()
        if num_launched() == 1:
            return cls(device=torch.device("cpu" if cpu else "cuda"))
        from accelerate import PartialState  # imported here: seconds, and one process needs none of it

        state = PartialState(cpu=cpu, timeout=LONGEST_WAIT)
        return cls(state.process_index, state.num_processes, state.device)

    @classmethod
    def single(cls, command: str) -> "Ranks":
        """This process, for a command that does not share its work.

        Raises:
            ConfigError: a launcher started several.
        """
        if num_launched() > 1:
            raise ConfigError(
                f"{num_launched()} processes were launched, and `tiltlm {command}` runs in one; start it without a "
                "launcher (`tiltlm train` is what several can share)",
                code="several_processes",
            )
        return cls.join()

    def leave(self) -> None:
        """After the last word to the others, at the end of the process.

        Wrapped modules go first: one that is the last to hold the process group ends its thread while it holds Python's
        lock, which that thread may be waiting for.
        """
        if self.size > 1:
            gc.collect()
            dist.destroy_process_group()

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sum of each value over all processes, in float64; the same numbers everywhere."""
        if self.size == 1:
            return list(values)
        return list(self.sum_tensor(torch.tensor(values, dtype=torch.float64, device=self.device)).tolist())

    def sum_tensor(self, tensor: Tensor) -> Tensor:
        """Sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether the flag is up in any process: all must ask together."""
        return self.sum([float(flag)])[0] > 0

    def gather(self, value: Value) -> list[Value]:
        """The value of every process, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def first(self, act: Callable[[], Value]) -> Value:
        """What `act` returns in the first process, everywhere; where it raises, every process raises."""
        if self.size == 1:
            return act()
        outcome: list[Any] = [None, None]
        if self.is_first:
            try:
                outcome[0] = act()
            except Exception as error:  # every process must hear of it, or the others wait for ever
                outcome[1] = error
        dist.broadcast_object_list(outcome, src=0, device=self.device)
        if outcome[1] is not None:
            raise outcome[1]
        value: Value = outcome[0]
        return value


def num_launched() -> int:
    """Processes that the launcher started, this one included; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


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
