"""One sorted index of the contexts in all shards, so that a look-up takes no longer with more shards.

It has the first half of each context's digest and the rows of that context. `find` compares the whole digest in the
shard; the shard itself finds responses and verifies checksums.
"""

from collections.abc import Sequence

import numpy as np

from tiltlm.reference.store.shard import Shard

Place = tuple[Shard, int, int]
"""A shard, the first row of a context in it, and the row after the last one."""


class Index:
    """The contexts of several shards, sorted."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        """Merge the sorted contexts of the shards."""
        self._shards = tuple(shards)
        contexts = [shard.contexts for shard in shards]
        joined = np.concatenate([np.empty(0, np.uint64), *(c.numbers for c in contexts)])
        order = np.argsort(joined, kind="stable")  # nearly linear: it merges sorted runs
        self._numbers = joined[order]
        self._shard = np.repeat(np.arange(len(shards), dtype=np.int32), [len(c.numbers) for c in contexts])[order]
        self._low = np.concatenate([np.empty(0, np.int64), *(c.rows[:-1] for c in contexts)])[order]
        self._high = np.concatenate([np.empty(0, np.int64), *(c.rows[1:] for c in contexts)])[order]

    def find(self, digests: Sequence[bytes]) -> list[list[Place]]:
        """Return the places of each context: an empty list if no shard has it."""
        asked = np.frombuffer(b"".join(digest[:8] for digest in digests), ">u8").astype(np.uint64)
        start = np.searchsorted(self._numbers, asked, "left")
        num_found = np.searchsorted(self._numbers, asked, "right") - start
        which = np.repeat(np.arange(len(asked)), num_found)
        found = np.arange(len(which)) + np.repeat(start - np.cumsum(num_found) + num_found, num_found)
        places: list[list[Place]] = [[] for _ in digests]
        columns = (self._shard[found], self._low[found], self._high[found])
        for i, number, low, high in zip(which.tolist(), *(column.tolist() for column in columns), strict=True):
            shard = self._shards[number]
            if shard.digest(low) == digests[i]:
                places[i].append((shard, low, high))
        return places
