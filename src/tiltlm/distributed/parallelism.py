"""How the processes of a run share a model, as settings: known without torch."""

import os
from dataclasses import dataclass
from typing import Literal

from tiltlm.core.errors import ConfigError

Parallel = Literal["replicate", "shard", "hybrid"]


@dataclass(frozen=True)
class Parallelism:
    """The settings of `training` that say how processes share a model."""

    parallel: Parallel = "replicate"
    shard_size: int | None = None
    """Processes that together hold one copy of a hybrid model; None: the processes of one machine."""
    cpu_offload: bool = False

    @property
    def is_sharded(self) -> bool:
        """True if a process holds only a part of the model."""
        return self.parallel != "replicate"

    def sizes(self, num_processes: int) -> tuple[int, int]:
        """Return how many copies of a sharded model there are, and how many processes share each.

        Raises:
            ConfigError: as `check`.
        """
        self.check(num_processes)
        if self.parallel != "hybrid":
            return 1, num_processes
        size = self._size_of_hybrid(num_processes)
        return num_processes // size, size

    def check(self, num_processes: int, on_cpu: bool = False) -> None:
        """Require processes that can share a model in this way. Call it before anything is loaded.

        Args:
            num_processes: Processes of the run.
            on_cpu: True if they compute on the CPU.

        Raises:
            ConfigError: they cannot.
        """
        if not self.is_sharded:
            return
        if num_processes == 1:
            raise ConfigError(
                f"training.parallel={self.parallel} needs several processes; start them with `torchrun "
                "--nproc-per-node N -m tiltlm` or `accelerate launch --multi_gpu -m tiltlm`",
                code="needs_several_processes",
                key="training.parallel",
            )
        if self.parallel == "hybrid":
            self._check_hybrid(num_processes)
        if self.cpu_offload and on_cpu:
            raise ConfigError(
                "training.cpu_offload keeps shards in the host's memory, and this run computes there already; leave "
                "it off",
                code="no_effect",
                key="training.cpu_offload",
            )

    def _size_of_hybrid(self, num_processes: int) -> int:
        return self.shard_size or int(os.environ.get("LOCAL_WORLD_SIZE", num_processes))

    def _check_hybrid(self, num_processes: int) -> None:
        """Require at least two copies of at least two shards each."""
        size = self._size_of_hybrid(num_processes)
        if num_processes % size == 0 and 1 < size < num_processes:
            return
        source = "training.shard_size" if self.shard_size else "the number of processes of a machine"
        raise ConfigError(
            f"training.parallel=hybrid divides {num_processes} processes into copies of {size} shards each ({source}); "
            f"{size} must be above 1, below {num_processes} and divide it. Set training.shard_size, or "
            "training.parallel=shard for one copy",
            code="wrong_shard_size",
            key="training.shard_size",
        )
