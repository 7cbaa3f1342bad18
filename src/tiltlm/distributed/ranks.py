"""The processes of a run: the rank of this one, and the exchange of values between them.

Accelerate finds the device and starts the process group. With one process every method returns at once.
"""

import gc
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import distributed_c10d

from tiltlm.core.errors import ConfigError, RunError
from tiltlm.distributed.board import Board
from tiltlm.distributed.launched import check_restarts, num_launched, rank_timeout
from tiltlm.distributed.watchdog import unwatch, watch

Item = TypeVar("Item")
Value = TypeVar("Value")

START_LIMIT = timedelta(minutes=10)
"""Time limit for the processes of a run to find each other."""
LONGEST_WAIT = timedelta(days=7)
"""Time limit for a collective operation. It is long because a rank may sample, measure or save for all of them. The
watchdog ends a run in which a rank is lost or nothing moves."""


@dataclass(frozen=True)
class Ranks:
    """The processes of a run, as seen by one of them."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    group: Any = None
    """The group through which values are exchanged; None: that of the launcher."""

    @classmethod
    def join(cls, cpu: bool = False) -> "Ranks":
        """Join the processes that a launcher (`accelerate launch`, `torchrun`) started, or return this one process.

        A watchdog then watches them until `leave`.

        Raises:
            ConfigError: the environment variable of the watchdog's limit is not a number, or torchrun could not restart
                the processes.
            RunError: the others were not there in time.
        """
        cpu = cpu or not torch.cuda.is_available()
        if num_launched() == 1:
            return cls(device=torch.device("cpu" if cpu else "cuda"))
        from accelerate import PartialState  # imported here: it takes seconds, and one process does not need it

        rank_timeout()  # what is wrong is refused before anything is waited for
        check_restarts()
        try:
            state = PartialState(cpu=cpu, timeout=START_LIMIT)
        except RuntimeError as error:
            address = f"{os.environ.get('MASTER_ADDR', '?')}:{os.environ.get('MASTER_PORT', '?')}"
            raise RunError(
                f"rank {os.environ.get('RANK', '?')} could not join the {num_launched()} processes of the run at "
                f"{address} ({str(error).splitlines()[0]}). See whether all of them were started and can reach this "
                "address",
                code="ranks_missing",
            ) from error
        distributed_c10d._set_pg_timeout(LONGEST_WAIT)
        board = Board(distributed_c10d._get_default_store(), state.process_index, state.num_processes)
        watch(board, spins=state.device.type != "cpu")
        return cls(state.process_index, state.num_processes, state.device)

    @classmethod
    def single(cls, command: str) -> "Ranks":
        """Return this process, for a command that runs in one process.

        Args:
            command: Name of the command, for the message.

        Raises:
            ConfigError: a launcher started several processes.
        """
        if num_launched() > 1:
            raise ConfigError(
                f"{num_launched()} processes were launched, and `tiltlm {command}` runs in one; start it without a "
                "launcher (only `tiltlm train` and `tiltlm loop` use several processes)",
                code="several_processes",
            )
        return cls.join()

    def apart(self) -> "Ranks":
        """Return the same processes with a group of their own, on the CPU. All processes must call it together.

        A thread exchanges values through it while training uses the other group.
        """
        if self.size == 1:
            return self
        group = dist.new_group(backend="gloo", timeout=LONGEST_WAIT)
        return replace(self, device=torch.device("cpu"), group=group)

    def leave(self) -> None:
        """Leave the process group at the end of the process, when all have done their work.

        Wrapped modules are collected first. If such a module is the last to hold the process group, it joins the thread
        of the group while it holds Python's lock, for which that thread may be waiting: a deadlock.
        """
        if self.size > 1:
            gc.collect()
            self.sum([0.0])  # the first one to end may take the store with it
            unwatch()
            dist.destroy_process_group()

    @property
    def is_first(self) -> bool:
        """True in rank 0, which writes the files."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the sum of each value over all processes, in float64; the result is the same in all of them."""
        if self.size == 1:
            return list(values)
        return list(self.sum_tensor(torch.tensor(values, dtype=torch.float64, device=self.device)).tolist())

    def sum_tensor(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over all processes, in place, and return it."""
        if self.size > 1:
            dist.all_reduce(tensor, group=self.group)
        return tensor

    def any(self, flag: bool) -> bool:
        """Return whether the flag is true in any process. All processes must call it together."""
        return self.sum([float(flag)])[0] > 0

    def gather(self, value: Value) -> list[Value]:
        """Return the values of all processes, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def map(self, act: Callable[[Item], Value], items: Sequence[Item]) -> list[Value]:
        """Call `act` with each item in one of the processes, and return the results by item in every process.

        Every process makes the same number of calls, because a sharded module must run equally often in all of them. A
        process with fewer items calls `act` with the last item again and drops the result. All processes must call this
        method together, with equal items.
        """
        own: list[Value] = []
        for start in range(0, len(items), self.size):
            own.append(act(items[min(start + self.rank, len(items) - 1)]))
        of_ranks = self.gather(own)
        return [of_ranks[k % self.size][k // self.size] for k in range(len(items))]

    def first(self, act: Callable[[], Value]) -> Value:
        """Call `act` in rank 0 only and return its result in every process. If it raises, every process raises."""
        if self.size == 1:
            return act()
        outcome: list[Any] = [None, None]
        if self.is_first:
            try:
                outcome[0] = act()
            except Exception as error:  # every process must raise it, or the others would wait for ever
                outcome[1] = error
        dist.broadcast_object_list(outcome, src=0, device=self.device, group=self.group)
        if outcome[1] is not None:
            raise outcome[1]
        value: Value = outcome[0]
        return value

    def together(self, act: Callable[[], Value]) -> list[Value]:
        """Call `act` in every process and return the results by rank. An error in one is raised in every process."""
        if self.size == 1:
            return [act()]
        own: list[Any] = [None, None]
        try:
            own[0] = act()
        except Exception as error:  # the others would wait for ever
            own[1] = error
        outcomes = self.gather(own)
        for _, found in outcomes:
            if found is not None:
                raise found
        return [value for value, _ in outcomes]
