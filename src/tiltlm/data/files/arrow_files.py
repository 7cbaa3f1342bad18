"""Read Parquet and Arrow files, and rows that come from Arrow, without the nulls that Arrow adds."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tiltlm.core.errors import DataError
from tiltlm.data.files.text_files import Row


def read_parquet(path: Path) -> Iterator[Row]:
    """Read a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield from arrow_rows(path.name, (row for batch in file.iter_batches(1024) for row in batch.to_pylist()))
    except pa.ArrowException as error:
        raise DataError(f"{path}: not a Parquet file, or damaged: {error}", code="damaged") from error


def read_arrow(path: Path) -> Iterator[Row]:
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
            yield from arrow_rows(path.name, (row for batch in batches for row in batch.to_pylist()))
    except pa.ArrowException as error:
        raise DataError(f"{path}: not an Arrow file, or damaged: {error}", code="damaged") from error


def arrow_rows(name: str, values: Iterable[dict[str, Any]]) -> Iterator[Row]:
    """Yield rows, numbered from 0, and remove the nulls inside their mappings.

    All mappings of an Arrow column have the same keys, so a key that one row lacks is null there: a tool's argument
    would be written into the prompts of all other tools. A null of the column itself stays.
    """
    for index, row in enumerate(values):
        yield Row(f"{name}[{index}]", {column: _without_nulls(value) for column, value in row.items()})


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value
