"""Find groups of nearly equal texts among millions, with MinHash signatures and banding.

A signature has 128 numbers. For each number, the shingles of a text are put in a different random order, and the number
belongs to the first of them. Two texts have the same first shingle with a probability equal to their Jaccard similarity
(shared shingles divided by all shingles), so the share of equal numbers estimates it, with a standard error of at most
0.044 (0.035 at 0.8). Texts whose signatures are equal in one of several bands are candidates; the whole signature
decides.

Source: Broder 1997, "On the resemblance and containment of documents"; banding as in Leskovec, Rajaraman and Ullman,
"Mining of Massive Datasets", section 3.4.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tiltlm.core.errors import ConfigError
from tiltlm.data.similarity.shingles import Shingles, fixed_numbers, mix, normal_text, word_shingles

NUM_HASHES = 128
"""Numbers of a signature, each of 16 bits. Shingles are told apart by 32 bits: of a million texts with a single shingle
each, about a hundred pairs look equal by chance."""
SHINGLE_WORDS = 5
SURE = 0.99
"""Least probability that two texts whose similarity is just the threshold become candidates."""
WINDOW = 64
"""Where more texts than this share a band, each is compared with this many neighbours instead of all."""

_BLOCK_TEXTS, _BLOCK_CHARACTERS = 1024, 1 << 20
"""Texts are hashed together up to these limits."""
_STEP = 1 << 14
"""Shingles that are hashed, or pairs that are compared, at a time."""


class NearDuplicates:
    """Texts as signatures, and the groups of those that are nearly equal.

    Texts are compared by their runs of 5 words, without regard to case and white space. A text of fewer than 5 words is
    compared by runs of 5 characters, and a text of fewer than 5 characters only as a whole. A short text is therefore
    never near to a long one.

    A text needs 256 bytes and its key: about 0.35 GB for a million texts, and twice that while groups are formed. The
    texts themselves are not kept.
    """

    def __init__(self, threshold: float = 0.8) -> None:
        """Start without texts.

        Args:
            threshold: Least estimated Jaccard similarity of two texts that are near duplicates, in (0, 1].

        Raises:
            ConfigError: The threshold is not in (0, 1].
        """
        if not 0 < threshold <= 1:
            raise ConfigError(
                f"similarity={threshold:g} must be above 0 and at most 1: it is a share of common runs of words",
                code="out_of_range",
                key="similarity",
            )
        self.threshold = threshold
        self._keys: list[str] = []
        self._signatures: list[NDArray[np.uint16]] = []
        self._pending: list[str] = []
        self._num_characters = 0

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: str, text: str) -> None:
        """Add a text.

        Args:
            key: Name of the text in the groups. Two texts may have the same key.
            text: The text; only its signature is kept.
        """
        self._keys.append(key)
        self._pending.append(normal_text(text))
        self._num_characters += len(self._pending[-1])
        if len(self._pending) >= _BLOCK_TEXTS or self._num_characters >= _BLOCK_CHARACTERS:
            self._flush()

    def merge(self, later: "NearDuplicates") -> None:
        """Add the texts of another object, as if they had been added here."""
        assert self.threshold == later.threshold, "objects with different thresholds are not merged"
        self._flush()
        later._flush()
        self._keys.extend(later._keys)
        self._signatures.extend(later._signatures)

    def groups(self) -> list[list[str]]:
        """Return the keys of every group of two or more texts, in the order in which they were added.

        A group is connected: each of its texts is a near duplicate of at least one other. Its first and last text may
        be less alike than the threshold.
        """
        numbers = self.group_numbers()
        sizes = np.bincount(numbers, minlength=1)
        found: dict[int, list[str]] = {}
        for row in np.flatnonzero(sizes[numbers] > 1).tolist():
            found.setdefault(int(numbers[row]), []).append(self._keys[row])
        return list(found.values())

    def group_numbers(self) -> NDArray[np.int64]:
        """Return the number of each text's group, in the order in which texts were added.

        Groups are numbered from 0 by their first text. A text without near duplicates is a group of its own.
        """
        self._flush()
        if not self._keys:
            return np.empty(0, np.int64)
        self._signatures = [np.concatenate(self._signatures)]
        return _in_order(_components(self._signatures[0], self.threshold))

    def _flush(self) -> None:
        """Replace texts by their signatures."""
        if self._pending:
            shingles = word_shingles(self._pending, SHINGLE_WORDS, short=True)
            self._signatures.append(signatures(shingles, len(self._pending)))
            self._pending, self._num_characters = [], 0


def signatures(shingles: Shingles, num_texts: int) -> NDArray[np.uint16]:
    """Return the signature of each text, [num_texts, 128]. Each text must have at least one shingle."""
    factors, summands = (
        (fixed_numbers("orders of shingles", 2 * NUM_HASHES) >> np.uint64(32))
        .astype(np.uint32)
        .reshape(2, NUM_HASHES, 1)
    )
    factors = factors | np.uint32(1)
    values = (shingles.hashes >> np.uint64(32)).astype(np.uint32)
    smallest = np.full((NUM_HASHES, num_texts), np.iinfo(np.uint32).max, np.uint32)
    for start in range(0, len(values), _STEP):
        ids = shingles.texts[start : start + _STEP]
        firsts = np.flatnonzero(np.diff(ids, prepend=-1))
        minima = np.minimum.reduceat(values[start : start + _STEP] * factors + summands, firsts, axis=1)
        at = ids[firsts]
        smallest[:, at] = np.minimum(smallest[:, at], minima)
    # The smallest numbers have few high bits, and the low bits of a product follow from the low bits of the shingle.
    return np.ascontiguousarray(mix(smallest.T.astype(np.uint64)).astype(np.uint16))


def band_rows(threshold: float) -> int:
    """Return the numbers of a band: as many as possible, so that few pairs are compared, and few near ones are missed.

    Two texts of similarity s share one of b bands of r numbers with probability 1 − (1 − sʳ)ᵇ. For the threshold 0.8
    there are 21 bands of 6, and the probability is 0.998.
    """
    fitting = [r for r in range(1, NUM_HASHES + 1) if 1 - (1 - threshold**r) ** (NUM_HASHES // r) >= SURE]
    return max(fitting, default=1)


def _components(table: NDArray[np.uint16], threshold: float) -> NDArray[np.int64]:
    """Return a number for each row of a table of signatures: equal for rows that are connected."""
    labels = _label_equal_rows(table)
    _, distinct = np.unique(labels, return_index=True)  # one row for each different signature
    groups = np.arange(len(distinct))
    rows = band_rows(threshold)
    least = int(np.ceil(round(threshold * NUM_HASHES, 9)))
    edges = np.empty((2, 0), np.int64)
    for first in range(0, NUM_HASHES - rows + 1, rows):
        for pairs in _candidates(table, distinct, first, rows):
            pairs = pairs[:, groups[pairs[0]] != groups[pairs[1]]]
            near = [
                (table[distinct[a]] == table[distinct[b]]).sum(1) >= least
                for a, b in np.split(pairs, range(_STEP, pairs.shape[1], _STEP), axis=1)
            ]
            edges = np.concatenate([edges, pairs[:, np.concatenate(near)]], axis=1)
            if edges.shape[1] > len(distinct):  # keep memory bounded, and compare no texts that are connected already
                groups, edges = _joined(groups, edges), edges[:, :0]
        groups, edges = _joined(groups, edges), edges[:, :0]
    return groups[labels]


def _candidates(
    table: NDArray[np.uint16], distinct: NDArray[np.int64], first: int, rows: int
) -> Iterator[NDArray[np.int64]]:
    """Yield the pairs of signatures that are equal in a band, as indices into `distinct`, [2, pairs].

    Signatures are sorted by the band and by the numbers that follow it, so that within a band the nearest stand next to
    each other. Then each is paired with those that follow it, at most `WINDOW` of them.
    """
    keys = _row_hashes(table, distinct, np.arange(first, first + rows))
    order = np.argsort(keys, kind="stable")
    order = order[_in_runs(keys[order])]
    following = np.arange(first + rows, first + rows + 4) % NUM_HASHES
    parts = table[distinct[order][:, None], following].astype(np.uint64)
    second = parts @ (np.uint64(1) << np.array([48, 32, 16, 0], np.uint64))
    order = order[np.lexsort((second, keys[order]))]
    runs = np.cumsum(np.diff(keys[order], prepend=keys[order][:1]) != 0)
    at = np.arange(len(order))
    for distance in range(1, WINDOW + 1):
        at = at[at + distance < len(order)]
        at = at[runs[at] == runs[at + distance]]
        if not len(at):
            break
        yield np.stack([order[at], order[at + distance]])


def _label_equal_rows(table: NDArray[np.uint16]) -> NDArray[np.int64]:
    """Return a number for each row, equal for equal rows. Most duplicates are exact, and cost no comparison then."""
    keys = _row_hashes(table, np.arange(len(table)), np.arange(NUM_HASHES))
    return np.unique(keys, return_inverse=True)[1].astype(np.int64)


def _row_hashes(table: NDArray[np.uint16], rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return a hash of these columns for each of these rows."""
    factors = fixed_numbers("bands of signatures", NUM_HASHES)[: len(columns)] | np.uint64(1)
    sums = np.zeros(len(rows), np.uint64)
    for column, factor in zip(columns.tolist(), factors, strict=True):
        sums = mix(sums + table[rows, column] * factor)
    return sums


def _in_runs(ordered: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return which values of a sorted array occur more than once."""
    equal = ordered[1:] == ordered[:-1]
    found: NDArray[np.bool_] = np.append(equal, False) | np.insert(equal, 0, False)
    return found


def _joined(groups: NDArray[np.int64], edges: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the groups after those of the two ends of each edge have become one."""
    if not edges.shape[1]:
        return groups
    ends = groups[edges]
    graph = coo_array((np.ones(edges.shape[1]), (ends[0], ends[1])), shape=(len(groups), len(groups)))
    numbers: NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
    return numbers[groups]


def _in_order(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the same groups, numbered in the order of their first member."""
    _, firsts, inverse = np.unique(numbers, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(firsts))[inverse]
