"""Store examples in an immutable Arrow file that is memory-mapped and read as a sequence.

A million `Example` objects need gigabytes and slow down every garbage collection. As columns they need only their token
ids, and the system can free that memory. An `Example` is made when it is asked for; its arrays are views of the file.
"""

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from tiltlm.core.example import Comparison, Example, Response, TokenIds, token_ids
from tiltlm.data.cache.lazy import OnDemand

_TOKENS = pa.list_(pa.field("item", pa.int32(), nullable=False))
SCHEMA = pa.schema(
    [
        pa.field("id", pa.binary(), nullable=False),  # UTF-8, and half surrogate pairs, which JSON can contain
        pa.field("source", pa.binary(), nullable=False),
        pa.field("prompt_ids", _TOKENS, nullable=False),
        pa.field("responses", pa.list_(pa.field("item", _TOKENS, nullable=False)), nullable=False),
        pa.field("known", pa.binary(), nullable=False),
    ]
)
"""Columns of the file. `known` is `_known`: JSON of everything that is not a token.

Most rows of a file have the same `known`, so its parsed values are cached.
"""


class Known(NamedTuple):
    """The fields of an `Example` and its `Response`s that are not tokens."""

    ended: tuple[bool, ...]
    scored: tuple[TokenIds | None, ...]
    ref_logps: tuple[float | None, ...]
    comparisons: tuple[Comparison, ...]
    labels: tuple[bool, ...]
    ranks: tuple[int, ...]
    scores: tuple[float, ...]
    weight: float


def _known(example: Example) -> bytes:
    assert not example.partners, "partners depend on all examples and are not stored"
    responses = example.responses
    known = Known(
        tuple(r.ended for r in responses),
        tuple(None if r.scored is None else r.scored.tolist() for r in responses),
        tuple(r.ref_logps for r in responses),
        example.comparisons,
        example.labels,
        example.ranks,
        example.scores,
        example.weight,
    )
    return json.dumps(known, default=lambda c: list(vars(c).values())).encode()


@lru_cache(maxsize=4096)
def _read_known(known: bytes) -> Known:
    ended, scored, ref_logps, comparisons, labels, ranks, scores, weight = json.loads(known)
    return Known(
        tuple(ended),
        tuple(None if offsets is None else token_ids(offsets) for offsets in scored),
        tuple(ref_logps),
        tuple(Comparison(*values) for values in comparisons),
        tuple(labels),
        tuple(ranks),
        tuple(scores),
        weight,
    )


def to_batch(examples: Sequence[Example]) -> pa.RecordBatch:
    """Return these examples as rows of `SCHEMA`."""
    responses = [response.token_ids for example in examples for response in example.responses]
    columns = [
        pa.array([_to_utf8(example.id) for example in examples], pa.binary()),
        pa.array([_to_utf8(example.source) for example in examples], pa.binary()),
        _lists([example.prompt_ids for example in examples]),
        pa.ListArray.from_arrays(
            _offsets(len(example.responses) for example in examples), _lists(responses), type=SCHEMA.types[3]
        ),
        pa.array([_known(example) for example in examples], pa.binary()),
    ]
    return pa.record_batch(columns, schema=SCHEMA)


def _to_utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _lists(lists: Sequence[TokenIds]) -> pa.ListArray:
    values = np.concatenate([np.empty(0, np.int32), *lists])
    return pa.ListArray.from_arrays(_offsets(map(len, lists)), pa.array(values, pa.int32()), type=_TOKENS)


def _offsets(lengths: Iterable[int]) -> pa.Array:
    return pa.array([0, *accumulate(lengths)], pa.int32())


class _Batch:
    """Views of one record batch. Reading them is faster than Arrow's access to single cells."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        ids, sources, prompts, responses, known = batch.columns
        self._ids, self._sources, self._known = _Cells(ids), _Cells(sources), _Cells(known)
        self._prompts = _Lists(prompts)
        self._first = memoryview(responses.offsets.to_numpy())
        self._responses = _Lists(responses.values)

    def example(self, row: int) -> Example:
        """Make the example of a row."""
        known = _read_known(self._known.row(row))
        responses = map(self._responses.row, range(self._first[row], self._first[row + 1]))
        return Example(
            id=self._ids.row(row).decode("utf-8", "surrogatepass"),
            prompt_ids=self._prompts.row(row),
            responses=tuple(map(Response, responses, known.ended, known.scored, known.ref_logps)),
            comparisons=known.comparisons,
            labels=known.labels,
            ranks=known.ranks,
            scores=known.scores,
            weight=known.weight,
            source=self._sources.row(row).decode("utf-8", "surrogatepass"),
        )


class _Lists:
    """A column of lists of token ids: one array of values, and the offsets of its rows."""

    def __init__(self, column: pa.ListArray) -> None:
        self._offsets = memoryview(column.offsets.to_numpy())
        self._values = column.values.to_numpy()

    def row(self, row: int) -> TokenIds:
        """Return the token ids of a row, a view of the file."""
        tokens: TokenIds = self._values[self._offsets[row] : self._offsets[row + 1]]
        return tokens


class _Cells:
    """A column of bytes: one buffer of values, and the offsets of its rows."""

    def __init__(self, column: pa.BinaryArray) -> None:
        _, offsets, values = column.buffers()
        self._offsets, self._values = memoryview(offsets).cast("i"), memoryview(values or b"")

    def row(self, row: int) -> bytes:
        """Return the bytes of a row."""
        return bytes(self._values[self._offsets[row] : self._offsets[row + 1]])


class ExampleTable(OnDemand):
    """The examples of a file with columns `SCHEMA`. Each access makes a new `Example`."""

    def __init__(self, path: Path) -> None:
        """Memory-map the file.

        Raises:
            OSError: The file is missing.
            pyarrow.ArrowException: It is incomplete, or not an Arrow file.
        """
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        self._batches = [_Batch(batch) for batch in batches]
        self._first = [0, *accumulate(batch.num_rows for batch in batches)]

    def __len__(self) -> int:
        return int(self._first[-1])

    def _example(self, row: int) -> Example:
        batch = bisect_right(self._first, row) - 1
        return self._batches[batch].example(row - self._first[batch])


@contextmanager
def table_writer(path: Path) -> Iterator[pa.RecordBatchFileWriter]:
    """Open a new file for record batches of `SCHEMA`."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        yield writer
