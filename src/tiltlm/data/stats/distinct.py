"""Count distinct things in a stream without keeping them: the smallest of their hashes say how many there are."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

KEPT = 4096
"""Hashes that are kept. The standard error of the number is 1/√KEPT, 1.6 %; below `KEPT` it is exact."""


@lru_cache(1 << 16)  # most words are common ones
def hash_of(text: str) -> int:
    """Return 64 bits that are as good as random, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def hashes_of(words: Sequence[str]) -> NDArray[np.uint64]:
    """Return the hash of each word."""
    return np.fromiter(map(hash_of, words), np.uint64, len(words))


def pair_hashes(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a hash of every two neighbours."""
    return hashes[:-1] * np.uint64(0x9E3779B97F4A7C15) ^ hashes[1:]


class DistinctCount:
    """The number of distinct hashes. With the k-th smallest of them, h of 2⁶⁴, it is (k − 1) · 2⁶⁴ / h.

    Source: Bar-Yossef et al. 2002, Counting distinct elements in a data stream.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self.total = 0
        """All that were added."""
        self._smallest: NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._new: list[NDArray[np.uint64]] = []
        self._num_new = 0

    def add(self, hashes: NDArray[np.uint64]) -> None:
        """Add things by their hashes."""
        self._new.append(hashes)
        self._num_new += len(hashes)
        self.total += len(hashes)
        if self._num_new > 16 * KEPT:
            self._settle()

    def merge(self, later: "DistinctCount") -> None:
        """Add what another one counted."""
        self._settle()
        later._settle()
        self.total += later.total
        self._smallest = np.unique(np.concatenate([self._smallest, later._smallest]))[:KEPT]

    def _settle(self) -> None:
        self._smallest = np.unique(np.concatenate([self._smallest, *self._new]))[:KEPT]
        self._new, self._num_new = [], 0

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
