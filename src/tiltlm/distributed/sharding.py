"""Sharding: each process holds a part of every tensor of a module, and gathers a layer when it computes it.

The wrapper is torch's `fully_shard`, in place: the module stays the same object, and its parameters become DTensors.
All processes that hold a module must call it together, and equally often.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.utils import _pytree

from tiltlm.core.logps import ResponseLogps
from tiltlm.core.scores import ResponseScores
from tiltlm.distributed.parallelism import Parallelism
from tiltlm.distributed.ranks import Ranks


@dataclass(frozen=True, eq=False)
class Sharding:
    """The processes that share a module, and where its shards lie."""

    ranks: Ranks
    mesh: DeviceMesh
    """One dimension, or copies × shards."""
    cpu_offload: bool = False

    @classmethod
    def of(cls, parallelism: Parallelism, ranks: Ranks) -> "Sharding | None":
        """Return how processes share a module; None if each holds all of it. All processes call it together.

        Raises:
            ConfigError: they cannot share a module in this way.
        """
        parallelism.check(ranks.size, ranks.device.type == "cpu")
        if not parallelism.is_sharded:
            return None
        copies, size = parallelism.sizes(ranks.size)
        shape = {"replicate": copies, "shard": size} if parallelism.parallel == "hybrid" else {"shard": size}
        mesh = init_device_mesh(ranks.device.type, tuple(shape.values()), mesh_dim_names=tuple(shape))
        return cls(ranks, mesh, parallelism.cpu_offload)

    @property
    def shard_size(self) -> int:
        """Number of processes that together hold one copy of a module."""
        return self.mesh.shape[-1]

    @property
    def num_copies(self) -> int:
        """Number of copies of a module."""
        return self.ranks.size // self.shard_size

    def divide(self, policy: nn.Module, *, half: bool = False, own_dtype: Iterable[nn.Module] = ()) -> None:
        """Shard the decoder layers of a module, then the module as the root.

        FSDP finds the tensors of an output through pytree. Output classes must be registered there, or the backward
        would start without the weights of the root.

        Args:
            policy: The module; its tensors are on the CPU, on the device of the mesh, or on the meta device.
            half: Gather weights in bfloat16 and compute with them. Shards, gradients and updates stay float32.
            own_dtype: Submodules that compute in the dtype of their weights all the same, and may have another one than
                the rest. They are gathered apart.
        """
        for noun in (ResponseLogps, ResponseScores):
            if noun not in _pytree.SUPPORTED_NODES:
                torch.export.register_dataclass(noun)
        on_cuda = self.mesh.device_type == "cuda"
        offload = CPUOffloadPolicy(pin_memory=on_cuda) if self.cpu_offload else OffloadPolicy()
        own, mixed = MixedPrecisionPolicy(), MixedPrecisionPolicy(torch.bfloat16, torch.float32)
        for module in own_dtype:
            fully_shard(module, mesh=self.mesh, mp_policy=own, offload_policy=offload)
        policy_of_root = mixed if half else own
        names = getattr(policy, "_no_split_modules", None) or ()
        for module in list(policy.modules()):
            if type(module).__name__ in names:
                fully_shard(module, mesh=self.mesh, mp_policy=policy_of_root, offload_policy=offload)
        fully_shard(policy, mesh=self.mesh, mp_policy=policy_of_root, offload_policy=offload)
        for name in getattr(policy, "forward_methods", ()):
            register_fsdp_forward_method(policy, name)
