"""One immutable file of the reference store: sequences, sorted, with a log-probability for every response token.

Rows are sorted by context digest and response tokens, so that a file needs no index beside it, and a response that was
cut on the right is found as the beginning of a longer one. Every row has its own checksum, so opening reads no values.
"""

import hashlib
import zlib
from bisect import bisect_left
from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tiltlm.core.example import TokenIds

TokenLogps = NDArray[np.float32]
Entry = tuple[TokenIds, TokenIds, TokenLogps]
"""Context, response, and the natural-log probability of every token of the response."""

_DIGEST = 16
_SCHEMA = pa.schema(
    [
        pa.field("context", pa.binary(_DIGEST), nullable=False),
        pa.field("response", pa.large_list(pa.field("item", pa.int32(), nullable=False)), nullable=False),
        pa.field("logps", pa.large_list(pa.field("item", pa.float32(), nullable=False)), nullable=False),
        pa.field("checksum", pa.uint32(), nullable=False),
    ]
)


class DamagedError(Exception):
    """A file is not what was written: torn, altered, or no shard at all."""


def sequence_key(context: TokenIds, response: TokenIds) -> bytes:
    """BLAKE2b-128 of the context, then the response itself: a beginning of a response has a beginning of its key."""
    digest = hashlib.blake2b(context.astype("<i4", copy=False).tobytes(), digest_size=_DIGEST).digest()
    return digest + response.astype("<i4", copy=False).tobytes()


def context_numbers(keys: Iterable[bytes]) -> NDArray[np.uint64]:
    """The leading eight bytes of each key as a number: ordered as keys are, for one vectorised search."""
    return np.frombuffer(b"".join(key[:8] for key in keys), dtype=">u8").astype(np.uint64)


def _checksum(key: bytes, logps: bytes) -> int:
    return zlib.crc32(logps, zlib.crc32(key))


def write_shard(entries: Iterable[Entry], metadata: Mapping[str, str]) -> pa.Buffer:
    """The bytes of a shard: an uncompressed Arrow IPC file with one record batch."""
    rows = sorted(
        (sequence_key(context, response), logps.astype("<f4").tobytes()) for context, response, logps in entries
    )
    assert all(len(key) == _DIGEST + len(logps) for key, logps in rows), "a log-probability for every token"
    offsets = pa.array(np.cumsum([0, *(len(logps) // 4 for _, logps in rows)]), pa.int64())
    responses, logps = (b"".join(part) for part in zip(*((key[_DIGEST:], logps) for key, logps in rows), strict=True))
    schema = _SCHEMA.with_metadata(dict(metadata))
    columns = [
        pa.array([key[:_DIGEST] for key, _ in rows], pa.binary(_DIGEST)),
        pa.LargeListArray.from_arrays(offsets, pa.array(np.frombuffer(responses, "<i4")), type=schema.types[1]),
        pa.LargeListArray.from_arrays(offsets, pa.array(np.frombuffer(logps, "<f4")), type=schema.types[2]),
        pa.array([_checksum(*row) for row in rows], pa.uint32()),
    ]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch(columns, schema=schema))
    return sink.getvalue()


class Shard:
    """A written shard, read in place."""

    def __init__(self, data: pa.NativeFile | pa.Buffer, metadata: Mapping[str, str]) -> None:
        """Look at the frame of a shard; rows are only read, and checked, when they are asked for.

        Raises:
            DamagedError: the frame is torn, or of another shape or definition than expected.
        """
        try:
            reader = pa.ipc.open_file(data)
            found = {k.decode(): v.decode() for k, v in (reader.schema.metadata or {}).items()}
            if reader.schema != _SCHEMA or found != dict(metadata) or reader.num_record_batches != 1:
                raise DamagedError("it holds something else than its folder says")
            self._batch = reader.get_batch(0)  # owns the memory below
            self._batch.validate()
            self._map(self._batch.num_rows)
        except (pa.ArrowException, OSError, ValueError, TypeError) as error:
            raise DamagedError(str(error)) from error

    def _map(self, num_rows: int) -> None:
        """Views of the columns, without Arrow's cost for every cell."""
        context, response, logps, checksum = (column.buffers() for column in self._batch.columns)
        digests = np.frombuffer(context[1], ">u8", count=2 * num_rows)
        self.contexts: NDArray[np.uint64] = digests[::2].astype(np.uint64)
        """Leading eight bytes of each row's context digest, ascending."""
        self._digests = memoryview(context[1])
        self._offsets = memoryview(np.frombuffer(response[1], "<i8", count=num_rows + 1))  # type: ignore[arg-type]
        self._responses = memoryview(response[3])
        self._logps = memoryview(logps[3])
        self._checksums = np.frombuffer(checksum[1], "<u4", count=num_rows)

    def __len__(self) -> int:
        return len(self.contexts)

    def find(self, key: bytes, low: int, high: int) -> TokenLogps | None:
        """Log-probabilities of the sequence with this key, or of the first one that goes on from it, cut to its length.

        Args:
            key: From `sequence_key`.
            low: First row with this context.
            high: Row after the last one with this context.

        Raises:
            DamagedError: the row's checksum does not fit.
        """
        row = bisect_left(range(high), key, low, high, key=self._key)
        if row == high or not (full := self._key(row)).startswith(key):
            return None
        logps = bytes(self._tokens(self._logps, row))
        if len(full) != _DIGEST + len(logps) or _checksum(full, logps) != self._checksums[row]:
            raise DamagedError(f"the checksum of row {row} does not fit")
        return np.frombuffer(logps, dtype="<f4", count=(len(key) - _DIGEST) // 4)

    def _key(self, row: int) -> bytes:
        return bytes(self._digests[_DIGEST * row : _DIGEST * (row + 1)]) + bytes(self._tokens(self._responses, row))

    def _tokens(self, column: memoryview, row: int) -> memoryview:
        return column[4 * self._offsets[row] : 4 * self._offsets[row + 1]]
