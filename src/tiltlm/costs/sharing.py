"""How the processes of a run share its model."""

from dataclasses import dataclass

from tiltlm.costs.devices import PER_NODE
from tiltlm.distributed.parallelism import Parallelism


@dataclass(frozen=True)
class Sharing:
    """Processes and their shares."""

    processes: int
    parallelism: Parallelism
    """As a run has it, but without moving shards to the host: where they lie changes nothing that is counted."""
    offloads: bool = False
    """Shards, gradients and moments lie in the host's memory."""

    @classmethod
    def of(cls, parallelism: Parallelism, processes: int) -> "Sharing":
        """Return how processes share a model; a hybrid one is divided within a machine of `PER_NODE` devices.

        Raises:
            ConfigError: they cannot share it in this way.
        """
        size = parallelism.shard_size
        if parallelism.parallel == "hybrid":
            size = size or min(PER_NODE, processes)
        own = Parallelism(parallelism.parallel, size)
        own.check(processes)
        return cls(processes, own, parallelism.cpu_offload)

    @property
    def shards(self) -> int:
        """Processes that together hold one copy: 1 means that each has the whole model."""
        return self.parallelism.sizes(self.processes)[1] if self.parallelism.is_sharded else 1

    @property
    def copies(self) -> int:
        """Number of copies of the model."""
        return self.processes // self.shards

    @property
    def has_buckets(self) -> bool:
        """True if gradients lie in the buckets of `DistributedDataParallel` from the start."""
        return self.processes > 1 and not self.parallelism.is_sharded
