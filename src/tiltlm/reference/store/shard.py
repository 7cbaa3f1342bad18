"""One immutable file of the reference store: sorted sequences, with a log-probability for every response token.

Rows are sorted by context digest and response tokens. A file therefore needs no index of its own, and a response that
was cut on the right is found as the beginning of a longer one. Every row has its own checksum, so that opening a file
reads no values.
"""

import contextlib
import hashlib
import zlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import pairwise
from mmap import mmap
from typing import IO, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tiltlm.core.errors import TiltError
from tiltlm.core.example import TokenIds

TokenLogps = NDArray[np.float32]
Entry = tuple[TokenIds, TokenIds, TokenLogps]
"""Context, response, and the log-probability of every token of the response, in nats."""

StoredRow = tuple[bytes, bytes]
"""An entry as it is stored: the sort key (context digest and response tokens), and the log-probabilities."""

DIGEST = 16
_TOKEN = np.dtype("<i4")
LOGP = np.dtype("<f4")
_SCHEMA = pa.schema(
    [
        pa.field("context", pa.binary(DIGEST), nullable=False),
        pa.field("response", pa.large_list(pa.field("item", pa.int32(), nullable=False)), nullable=False),
        pa.field("logps", pa.large_list(pa.field("item", pa.float32(), nullable=False)), nullable=False),
        pa.field("checksum", pa.uint32(), nullable=False),
    ]
)


class Contexts(NamedTuple):
    """The C distinct contexts of a shard."""

    numbers: NDArray[np.uint64]
    """[C] The first eight bytes of each digest, as a big-endian number. Ascending."""
    rows: NDArray[np.int64]
    """[C + 1] Context c has the rows from `rows[c]` to `rows[c + 1]` exclusive."""


class DamagedError(TiltError):
    """A file is incomplete, altered, or not a shard."""


def token_bytes(tokens: TokenIds) -> bytes:
    """Return token ids as they are stored. A prefix of the tokens gives a prefix of the bytes."""
    return tokens.astype(_TOKEN, copy=False).tobytes() if tokens.dtype != _TOKEN else tokens.tobytes()


def context_digest(context: bytes) -> bytes:
    """Return the BLAKE2b-128 digest of a context's `token_bytes`."""
    return hashlib.blake2b(context, digest_size=DIGEST).digest()


def sequence_digest(context: TokenIds, response: TokenIds) -> bytes:
    """Return the BLAKE2b-128 digest of a context and a response."""
    key = context_digest(token_bytes(context)) + token_bytes(response)
    return hashlib.blake2b(key, digest_size=DIGEST).digest()


def rows_of(entries: Iterable[Entry]) -> Iterator[StoredRow]:
    """Yield entries as rows. A context that several entries share is digested once."""
    digests: dict[bytes, bytes] = {}
    for context, response, logps in entries:
        assert len(response) == len(logps), "one log-probability per token"
        content = token_bytes(context)
        if content not in digests:
            digests[content] = context_digest(content)
        yield digests[content] + token_bytes(response), logps.astype(LOGP, copy=False).tobytes()


def write_shard(rows: Iterable[StoredRow], metadata: Mapping[str, str], sink: IO[bytes] | pa.NativeFile) -> None:
    """Write a shard: an uncompressed Arrow IPC file with one record batch.

    A row is left out if another row contains it: the same sequence, or one that continues it.
    """
    ordered = sorted(rows)  # a sequence comes right before those that continue it
    ordered = [row for row, after in pairwise([*ordered, (b"", b"")]) if not after[0].startswith(row[0])]
    offsets = pa.array(np.cumsum([0, *(len(logps) // 4 for _, logps in ordered)]), pa.int64())
    responses = b"".join(key[DIGEST:] for key, _ in ordered)
    logps = b"".join(logps for _, logps in ordered)
    schema = _SCHEMA.with_metadata(dict(metadata))
    columns = [
        pa.array([key[:DIGEST] for key, _ in ordered], pa.binary(DIGEST)),
        pa.LargeListArray.from_arrays(offsets, pa.array(np.frombuffer(responses, _TOKEN)), type=schema.types[1]),
        pa.LargeListArray.from_arrays(offsets, pa.array(np.frombuffer(logps, LOGP)), type=schema.types[2]),
        pa.array([zlib.crc32(logps, zlib.crc32(key)) for key, logps in ordered], pa.uint32()),
    ]
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch(columns, schema=schema))


class Shard:
    """A shard that was written, read in place (memory-mapped)."""

    def __init__(self, name: str, data: bytes | mmap, metadata: Mapping[str, str]) -> None:
        """Read the schema of a shard. Rows are read and verified only when they are looked up.

        Args:
            name: Name of the file.
            data: Its content.
            metadata: What the file must have been written with.

        Raises:
            DamagedError: the file is incomplete, or has another schema or other metadata.
        """
        self.name = name
        self._data = data
        try:
            reader = pa.ipc.open_file(pa.py_buffer(data))
            found = {k.decode(): v.decode() for k, v in (reader.schema.metadata or {}).items()}
            if reader.schema != _SCHEMA or found != dict(metadata) or reader.num_record_batches != 1:
                raise DamagedError("its schema or metadata are not those of its folder", code="other_contents")
            batch = reader.get_batch(0)
            batch.validate()
            self._map(batch)
        except (pa.ArrowException, OSError, ValueError, TypeError) as error:
            raise DamagedError(str(error), code="damaged") from error

    def _map(self, batch: pa.RecordBatch) -> None:
        """Find the columns. Cells are sliced from the file itself, which costs less than Arrow's own access to each."""
        context, response, logps, checksum = (column.buffers() for column in batch.columns)
        start = pa.py_buffer(self._data).address
        self._context_at = context[1].address - start
        self._responses_at = response[3].address - start
        self._logps_at = logps[3].address - start
        self._halves = np.frombuffer(context[1], ">u8", count=2 * len(batch)).reshape(-1, 2)
        self._offsets = memoryview(np.frombuffer(response[1], "<i8", count=len(batch) + 1))  # type: ignore[arg-type]
        self._checksums = memoryview(np.frombuffer(checksum[1], "<u4", count=len(batch)))  # type: ignore[arg-type]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._checksums)

    @cached_property
    def contexts(self) -> Contexts:
        """The rows of each context. The first access reads the column of digests."""
        is_first = np.ones(len(self), np.bool)
        is_first[1:] = (self._halves[1:] != self._halves[:-1]).any(1)
        first = np.flatnonzero(is_first)
        return Contexts(self._halves[first, 0].astype(np.uint64), np.append(first, len(self)))

    def digest(self, row: int) -> bytes:
        """Return the digest of a row's context."""
        at = self._context_at + DIGEST * row
        return self._data[at : at + DIGEST]

    def find(self, seed: int, response: bytes, low: int, high: int) -> bytes | None:
        """Return the bytes of a response's log-probabilities, or None if no row has them.

        A longer response that continues it has them too.

        Args:
            seed: Checksum of the digest of its context.
            response: Its `token_bytes`.
            low: First row of its context.
            high: Row after the last one of its context.

        Raises:
            DamagedError: the checksum of the row is wrong.
        """
        data, offsets, responses_at = self._data, self._offsets, self._responses_at
        while low + 1 < high:  # bisection written out: a third faster than with function calls
            middle = (low + high - 1) // 2
            if data[responses_at + 4 * offsets[middle] : responses_at + 4 * offsets[middle + 1]] < response:
                low = middle + 1
            else:
                high = middle + 1
        full = self._response(low)
        return self._checked(low, full, seed)[: len(response)] if full.startswith(response) else None

    def sound_rows(self) -> Iterator[StoredRow]:
        """Yield all rows in order, without those whose checksum is wrong."""
        for row in range(len(self)):
            digest, response = self.digest(row), self._response(row)
            with contextlib.suppress(DamagedError):
                yield digest + response, self._checked(row, response, zlib.crc32(digest))

    def _response(self, row: int) -> bytes:
        """Return the `token_bytes` of a row's response."""
        offsets = self._offsets
        return self._data[self._responses_at + 4 * offsets[row] : self._responses_at + 4 * offsets[row + 1]]

    def _checked(self, row: int, response: bytes, seed: int) -> bytes:
        """Return the log-probabilities of a row, whose response is `response`, after verifying its checksum."""
        at = self._logps_at + 4 * self._offsets[row]
        logps = self._data[at : at + len(response)]
        if zlib.crc32(logps, zlib.crc32(response, seed)) != self._checksums[row]:
            raise DamagedError(f"the checksum of row {row} is wrong", code="wrong_checksum")
        return logps
