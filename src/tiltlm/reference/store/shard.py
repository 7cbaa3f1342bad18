"""One immutable file of the reference store: sequences, sorted, with a log-probability for every response token.

Rows are sorted by context digest and response tokens, so that a file needs no index beside it, and a response that was
cut on the right is found as the beginning of a longer one. Every row has its own checksum, so opening reads no values.
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
"""Context, response, and the natural-log probability of every token of the response."""

StoredRow = tuple[bytes, bytes]
"""An entry as it is stored: context digest and response tokens, which rows are sorted by; log-probabilities."""

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
    """[C] The leading eight bytes of each digest, big-endian: ascending."""
    rows: NDArray[np.int64]
    """[C + 1] Context c has rows `rows[c]` to `rows[c + 1]`, the latter excluded."""


class DamagedError(TiltError):
    """A file is not what was written: torn, altered, or no shard at all."""


def token_bytes(tokens: TokenIds) -> bytes:
    """Token ids as they are stored. A beginning of the tokens has a beginning of the bytes."""
    return tokens.astype(_TOKEN, copy=False).tobytes() if tokens.dtype != _TOKEN else tokens.tobytes()


def context_digest(context: bytes) -> bytes:
    """BLAKE2b-128 of a context's `token_bytes`."""
    return hashlib.blake2b(context, digest_size=DIGEST).digest()


def sequence_digest(context: TokenIds, response: TokenIds) -> bytes:
    """BLAKE2b-128 of a context and a response: what tells sequences apart without keeping them."""
    key = context_digest(token_bytes(context)) + token_bytes(response)
    return hashlib.blake2b(key, digest_size=DIGEST).digest()


def rows_of(entries: Iterable[Entry]) -> Iterator[StoredRow]:
    """Entries as rows; a context that several of them share is digested once."""
    digests: dict[bytes, bytes] = {}
    for context, response, logps in entries:
        assert len(response) == len(logps), "a log-probability for every token"
        content = token_bytes(context)
        if content not in digests:
            digests[content] = context_digest(content)
        yield digests[content] + token_bytes(response), logps.astype(LOGP, copy=False).tobytes()


def write_shard(rows: Iterable[StoredRow], metadata: Mapping[str, str], sink: IO[bytes] | pa.NativeFile) -> None:
    """Write a shard: an uncompressed Arrow IPC file with one record batch.

    A row that another one says too is left out: the same sequence, or one that goes on from it.
    """
    ordered = sorted(rows)  # a sequence comes right before those that go on from it
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
    """A written shard, read in place."""

    def __init__(self, name: str, data: bytes | mmap, metadata: Mapping[str, str]) -> None:
        """Look at the frame of a shard; rows are only read, and checked, when they are asked for.

        Raises:
            DamagedError: the frame is torn, or of another shape or definition than expected.
        """
        self.name = name
        self._data = data
        try:
            reader = pa.ipc.open_file(pa.py_buffer(data))
            found = {k.decode(): v.decode() for k, v in (reader.schema.metadata or {}).items()}
            if reader.schema != _SCHEMA or found != dict(metadata) or reader.num_record_batches != 1:
                raise DamagedError("it holds something else than its folder says", code="other_contents")
            batch = reader.get_batch(0)
            batch.validate()
            self._map(batch)
        except (pa.ArrowException, OSError, ValueError, TypeError) as error:
            raise DamagedError(str(error), code="damaged") from error

    def _map(self, batch: pa.RecordBatch) -> None:
        """Find the columns: cells are cut out of the file itself, without Arrow's cost for each."""
        context, response, logps, checksum = (column.buffers() for column in batch.columns)
        start = pa.py_buffer(self._data).address
        self._context_at = context[1].address - start
        self._responses_at = response[3].address - start
        self._logps_at = logps[3].address - start
        self._halves = np.frombuffer(context[1], ">u8", count=2 * len(batch)).reshape(-1, 2)
        self._offsets = memoryview(np.frombuffer(response[1], "<i8", count=len(batch) + 1))  # type: ignore[arg-type]
        self._checksums = memoryview(np.frombuffer(checksum[1], "<u4", count=len(batch)))  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self._checksums)

    @cached_property
    def contexts(self) -> Contexts:
        """Where each context begins and ends. Reads the column of digests, once."""
        is_first = np.ones(len(self), np.bool)
        is_first[1:] = (self._halves[1:] != self._halves[:-1]).any(1)
        first = np.flatnonzero(is_first)
        return Contexts(self._halves[first, 0].astype(np.uint64), np.append(first, len(self)))

    def digest(self, row: int) -> bytes:
        """The digest of a row's context."""
        at = self._context_at + DIGEST * row
        return self._data[at : at + DIGEST]

    def find(self, seed: int, response: bytes, low: int, high: int) -> bytes | None:
        """Log-probabilities of a response, or of the first one that goes on from it, cut to its length.

        Args:
            seed: Checksum of the digest of its context.
            response: Its `token_bytes`.
            low: First row of its context.
            high: Row after the last one of its context.

        Raises:
            DamagedError: the row's checksum does not fit.
        """
        data, offsets, responses_at = self._data, self._offsets, self._responses_at
        while low + 1 < high:  # written out: a million look-ups spend a third less here than through calls
            middle = (low + high - 1) // 2
            if data[responses_at + 4 * offsets[middle] : responses_at + 4 * offsets[middle + 1]] < response:
                low = middle + 1
            else:
                high = middle + 1
        full = self._response(low)
        return self._checked(low, full, seed)[: len(response)] if full.startswith(response) else None

    def sound_rows(self) -> Iterator[StoredRow]:
        """All rows, in order, but for those whose checksum does not fit."""
        for row in range(len(self)):
            digest, response = self.digest(row), self._response(row)
            with contextlib.suppress(DamagedError):
                yield digest + response, self._checked(row, response, zlib.crc32(digest))

    def _response(self, row: int) -> bytes:
        offsets = self._offsets
        return self._data[self._responses_at + 4 * offsets[row] : self._responses_at + 4 * offsets[row + 1]]

    def _checked(self, row: int, response: bytes, seed: int) -> bytes:
        """The log-probabilities of a row with this response."""
        at = self._logps_at + 4 * self._offsets[row]
        logps = self._data[at : at + len(response)]
        if zlib.crc32(logps, zlib.crc32(response, seed)) != self._checksums[row]:
            raise DamagedError(f"the checksum of row {row} does not fit", code="wrong_checksum")
        return logps
