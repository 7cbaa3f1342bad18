"""The processes of a run: which one this is, and how they exchange values.

Accelerate finds the device and starts the process group. With one process every method returns at once.
"""

import gc
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from tiltlm.core.errors import ConfigError

Value = TypeVar("Value")

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
