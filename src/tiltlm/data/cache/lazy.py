"""Sequences of examples that hold no examples: each one is fetched or made when it is asked for.

Code that reads examples takes a `Sequence[Example]`. With these sequences, only the examples in use need memory.
"""

from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import overload

from tiltlm.core.example import Example


class OnDemand(Sequence[Example]):
    """Base of the sequences below and of `tiltlm.data.cache.table.ExampleTable`."""

    @abstractmethod
    def _example(self, row: int) -> Example:
        """Return the example of a row, 0 ≤ row < len."""

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | Sequence[Example]:
        rows = range(len(self))[index]
        return Selection(self, rows) if isinstance(rows, range) else self._example(rows)


class Selection(OnDemand):
    """Some examples of a sequence, in any order."""

    def __init__(self, examples: Sequence[Example], rows: Sequence[int]) -> None:
        self._examples, self._rows = examples, rows

    def __len__(self) -> int:
        return len(self._rows)

    def _example(self, row: int) -> Example:
        return self._examples[self._rows[row]]


class Joined(OnDemand):
    """Several sequences as one, in order."""

    def __init__(self, *parts: Sequence[Example]) -> None:
        self._parts = parts
        self._first = [0, *accumulate(map(len, parts))]

    def __len__(self) -> int:
        return self._first[-1]

    def _example(self, row: int) -> Example:
        part = bisect_right(self._first, row) - 1
        return self._parts[part][row - self._first[part]]
