"""What the ranks of a run write about themselves into torch's store, by which they found each other.

Nothing here is a collective operation: a rank can read it while others are stuck, frozen or gone.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, cast

from torch.distributed.distributed_c10d import PrefixStore, Store


@dataclass(frozen=True)
class Beat:
    """A sign of life of one rank, written again at each beat."""

    count: int
    """Number of beats: a process that is frozen or gone writes no new ones."""
    moved: int
    """Number of beats between which the main thread had moved."""
    host: str
    pid: int
    position: str
    """Phase, step and row."""
    call: str
    """Innermost function of tiltlm that the main thread is in."""
    waits: bool
    """True if the main thread is inside a collective operation."""
    done: bool = False
    """True for the last beat of a rank that has left the group."""
    ticks: int = 0
    """Number of changes of its position."""


@dataclass(frozen=True)
class Failure:
    """A rank that ends with an error or a signal."""

    rank: int
    order: int
    """1 for the rank that failed first, then 2, …: the later ones may fail because of it."""
    exit_code: int
    text: str
    """What the user should read: the message of an error of ours, else a traceback; empty for a signal."""
    is_ours: bool
    """True for an error that this package raises on purpose."""


class Board:
    """The part of the store for these records. A method raises RuntimeError if the store cannot be reached."""

    def __init__(self, store: Store, rank: int, size: int) -> None:
        """Use a store.

        Args:
            store: Shared by all ranks.
            rank: The rank of this process.
            size: The number of ranks.
        """
        self._base = store
        self._store = PrefixStore("tiltlm", store)
        self.rank, self.size = rank, size

    def clone(self) -> "Board":
        """Return the same board with a connection of its own, for another thread."""
        return Board(cast(Any, self._base).clone(), self.rank, self.size)

    def write_beat(self, beat: Beat) -> None:
        """Write this rank's sign of life."""
        self._set(f"beat/{self.rank}", asdict(beat))

    def beats(self, ranks: Iterable[int]) -> dict[int, Beat]:
        """Return the newest beats of these ranks; empty until all of them have written one."""
        ranks = list(ranks)
        keys = [f"beat/{rank}" for rank in ranks]
        if not self._store.check(keys):
            return {}
        return {rank: Beat(**json.loads(value)) for rank, value in zip(ranks, self._store.multi_get(keys), strict=True)}

    def report(self, exit_code: int, text: str, is_ours: bool) -> None:
        """Report that this rank fails."""
        order = self._store.add("failures", 1)
        self._set(f"failure/{self.rank}", asdict(Failure(self.rank, order, exit_code, text, is_ours)))

    def failures(self) -> dict[int, Failure]:
        """Return the failures that were reported, by rank."""
        if self._store.add("failures", 0) == 0:
            return {}
        found = {rank: self._get(f"failure/{rank}") for rank in range(self.size)}
        return {rank: Failure(**value) for rank, value in found.items() if value is not None}

    def decide(self, exit_code: int) -> bool:
        """Set the exit code of all ranks; return False if another rank has set one already."""
        claim = json.dumps([self.rank, exit_code])
        return self._store.compare_set("verdict", "", claim) == claim.encode()

    def decision(self) -> int | None:
        """Return the exit code that a rank has set for all; None if there is none yet."""
        found = self._get("verdict")
        return None if found is None else int(found[1])

    def acknowledge(self) -> None:
        """Report that this rank has read the decision and ends."""
        self._set(f"ended/{self.rank}", True)

    def ended(self, rank: int) -> bool:
        """Return whether a rank has read the decision."""
        return bool(self._store.check([f"ended/{rank}"]))

    def _set(self, key: str, value: Any) -> None:
        self._store.set(key, json.dumps(value))

    def _get(self, key: str) -> Any:
        """Return a value, or None. A plain `get` would wait for the key."""
        return json.loads(self._store.get(key)) if self._store.check([key]) else None
