"""Read Parquet and Arrow files, and rows that come from Arrow, without the nulls that Arrow adds."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tiltlm.core.errors import DataError
from tiltlm.data.files.text_files import ReadLimits, Row, text_size, too_large

BATCH_BYTES = 1 << 26
"""Bytes of a batch of rows of Parquet, if its rows have the mean size of the file."""


def read_parquet(path: Path, limits: ReadLimits) -> Iterator[Row]:
    """Read a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
            mean = max((group.total_byte_size // max(group.num_rows, 1) for group in groups), default=0)
            batches = file.iter_batches(max(1, min(1024, BATCH_BYTES // max(mean, 1))))
            yield from arrow_rows(path.name, _rows_of(batches, limits), limits)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, "a Parquet file", error) from error


def read_arrow(path: Path, limits: ReadLimits) -> Iterator[Row]:
    """Read an Arrow file, or an Arrow stream as Hugging Face datasets write it. The file is memory-mapped."""
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as file:
            try:
                table = pa.ipc.open_stream(file).read_all()
            except pa.ArrowInvalid:
                file.seek(0)
                table = pa.ipc.open_file(file).read_all()
            batches = table.to_batches(max_chunksize=1024)
            yield from arrow_rows(path.name, _rows_of(batches, limits), limits)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, "an Arrow file", error) from error


def _damaged(path: Path, kind: str, error: Exception) -> Exception:
    """Return the error for a file that pyarrow cannot read; that of the system if the system refuses."""
    if isinstance(error, OSError) and error.errno is not None:  # pyarrow's own have no number
        return error
    return DataError(f"{path}: not {kind}, or damaged: {error}", code="damaged")


def _rows_of(batches: Iterable[Any], limits: ReadLimits) -> Iterator[dict[str, Any] | int]:
    """Yield the rows of Arrow's batches; of one that is larger than a row may be, only its number of bytes."""
    for batch in batches:
        if batch.nbytes <= limits.max_row:
            yield from batch.to_pylist()
            continue
        for row in (batch.slice(i, 1) for i in range(batch.num_rows)):
            if row.nbytes > limits.max_row:
                yield row.nbytes
            else:
                yield from row.to_pylist()


def arrow_rows(name: str, rows: Iterable[dict[str, Any] | int], limits: ReadLimits) -> Iterator[Row]:
    """Yield rows, numbered from 0, and remove the nulls inside their mappings.

    All mappings of an Arrow column have the same keys, so a key that one row lacks is null there: a tool's argument
    would be written into the prompts of all other tools. A null of the column itself stays.

    Args:
        name: Name of the file or data set.
        rows: Its rows; the number of bytes in place of one that is too large.
        limits: What is too large.
    """
    for index, row in enumerate(rows):
        size = row if isinstance(row, int) else text_size(row)
        if isinstance(row, int) or size > limits.max_row:
            yield Row(f"{name}[{index}]", {}, too_large(size, limits.max_row))
        else:
            yield Row(f"{name}[{index}]", {column: _without_nulls(value) for column, value in row.items()})


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value
