"""Count distinct things in a stream without keeping them: the smallest of their hashes say how many there are."""

import hashlib
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

KEPT = 4096
"""Hashes that are kept. The standard error of the number is 1/√KEPT, 1.6 %; below `KEPT` it is exact."""


@lru_cache(1 << 16)  # most words are common ones
def hash_of(text: str) -> int:
    """Return 64 bits that are as good as random, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


class DistinctCount:
    """The number of distinct hashes. With the k-th smallest of them, h of 2⁶⁴, it is (k − 1) · 2⁶⁴ / h.

    Source: Bar-Yossef et al. 2002, Counting distinct elements in a data stream.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self.total = 0
        """All that were added."""
        self._smallest: NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._new: list[int] = []

    def add(self, hashes: Iterable[int]) -> None:
        """Add things by their hashes."""
        before = len(self._new)
        self._new += hashes
        self.total += len(self._new) - before
        if len(self._new) > 16 * KEPT:
            self._settle()

    def merge(self, later: "DistinctCount") -> None:
        """Add what another one counted."""
        self._settle()
        later._settle()
        self.total += later.total
        self._smallest = np.unique(np.concatenate([self._smallest, later._smallest]))[:KEPT]

    def _settle(self) -> None:
        new = np.array(self._new, dtype=np.uint64)
        self._smallest = np.unique(np.concatenate([self._smallest, new]))[:KEPT]
        self._new = []

    @property
    def distinct(self) -> int:
        """How many are distinct: exact below `KEPT`, an estimate from there on."""
        self._settle()
        if len(self._smallest) < KEPT:
            return len(self._smallest)
        return min(self.total, round((KEPT - 1) * 2.0**64 / float(self._smallest[-1])))

    @property
    def share(self) -> float | None:
        """Distinct ones as a share of all; None if there are none."""
        return self.distinct / self.total if self.total else None
