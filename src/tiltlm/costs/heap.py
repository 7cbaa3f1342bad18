"""The memory that a CPU process holds for a series of allocations: more than the blocks, because of gaps between them.

While it trains on a CPU, tiltlm lets glibc keep freed blocks (`training/allocator.py`). All blocks then lie in one
heap, which only grows. A freed block is joined with free neighbours. A new one takes the smallest gap that is large
enough, and what is left of the gap stays free. `Heap` follows these rules, so gaps follow from the allocations.
"""

import bisect
from collections.abc import Iterable

from tiltlm.costs.trace import Event

ALIGNMENT = 64
"""torch aligns tensors on a CPU to this many bytes."""
HEADER = 16
"""Bytes of glibc's own in front of each block."""
SMALLEST = 32
"""The smallest block of glibc."""


class Heap:
    """A heap of blocks by best fit."""

    def __init__(self) -> None:
        """Start empty."""
        self.top = 0
        """The bytes that the process holds: the heap's end, which never falls."""
        self._end = 0
        self._gaps: list[tuple[int, int]] = []
        """Free gaps as (size, start), sorted."""
        self._starts: dict[int, int] = {}
        """Start → size of each gap."""
        self._ends: dict[int, int] = {}
        """End → start of each gap."""
        self._blocks: dict[object, tuple[int, int]] = {}
        """Key → (start, size) of each block."""

    def allocate(self, key: object, num_bytes: int) -> None:
        """Place a block, aligned: a gap must also have room for moving it, so it may be too small for its own block."""
        size = -(-(num_bytes + HEADER) // HEADER) * HEADER
        start, found = self._take(size + ALIGNMENT + SMALLEST)
        own = start
        if (start + HEADER) % ALIGNMENT:
            own = -(-(start + HEADER + SMALLEST) // ALIGNMENT) * ALIGNMENT - HEADER
        end = start + found
        rest = end - own - size
        if rest < SMALLEST:
            size, rest = size + rest, 0
        self._blocks[key] = (own, size)
        if own > start:
            self._release(start, own - start)
        if rest:
            self._release(own + size, rest)

    def _take(self, size: int) -> tuple[int, int]:
        """Return the start and the size of the smallest gap of at least this size; it may be larger by a little."""
        at = bisect.bisect_left(self._gaps, (size, -1))
        if at == len(self._gaps):
            start = self._end
            self._end += size
            self.top = max(self.top, self._end)
            return start, size
        found, start = self._gaps[at]
        self._remove(start)
        if found - size >= SMALLEST:
            self._add(start + size, found - size)
            found = size
        return start, found

    def free(self, key: object) -> None:
        """Free a block."""
        self._release(*self._blocks.pop(key))

    def _release(self, start: int, size: int) -> None:
        """Make a gap, joined with free neighbours; at the end of the heap it can be used by any size."""
        if start in self._ends:
            before = self._ends[start]
            size += self._starts[before]
            self._remove(before)
            start = before
        if start + size in self._starts:
            after = start + size
            size += self._starts[after]
            self._remove(after)
        if start + size == self._end:
            self._end = start
        else:
            self._add(start, size)

    def run(self, events: Iterable[Event], name: object, dropped: frozenset[int] = frozenset()) -> None:
        """Allocate and free in this order.

        Args:
            events: What happened.
            name: Makes keys of the blocks with their numbers.
            dropped: Blocks that are freed at once, because they only add to another one.
        """
        for block, size in events:
            key = (name, block)
            if key in self._blocks:
                self.free(key)
            if size:
                self.allocate(key, size)
                if block in dropped:
                    self.free(key)

    def _add(self, start: int, size: int) -> None:
        bisect.insort(self._gaps, (size, start))
        self._starts[start], self._ends[start + size] = size, start

    def _remove(self, start: int) -> None:
        size = self._starts.pop(start)
        del self._ends[start + size]
        del self._gaps[bisect.bisect_left(self._gaps, (size, start))]
