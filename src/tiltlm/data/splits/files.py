"""Write the parts of a split to files: in the format of the input where that is clear, else as JSON Lines."""

import csv
import gzip
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import zstandard

from tiltlm.data.files.text_files import Row
from tiltlm.data.splits.plan import Part

BATCH = 1024
"""Rows that are written to a Parquet file at a time."""
KEPT = (".jsonl.gz", ".jsonl.zst", ".jsonl", ".csv", ".tsv", ".parquet")
"""Ends of names of files that are written in their own format."""


class RowWriter(Protocol):
    """A file that rows are written to."""

    def write(self, values: Mapping[str, Any]) -> None:
        """Append a row."""

    def close(self) -> None:
        """Finish the file."""


def format_of(names: str | Sequence[str]) -> str:
    """Return the end of the names of the files to write: that of the sources if all are files with the same one."""
    names = [names] if isinstance(names, str) else list(names)
    ends = {next((end for end in KEPT if name.lower().endswith(end) and Path(name).is_file()), "") for name in names}
    if ends == {".parquet"}:
        import pyarrow.parquet as pq

        schema = pq.read_schema(names[0])
        if not all(schema.equals(pq.read_schema(name)) for name in names[1:]):
            return ".jsonl"
    return ends.pop() or ".jsonl" if len(ends) == 1 else ".jsonl"


def open_writer(path: Path, names: str | Sequence[str], columns: Iterable[str]) -> RowWriter:
    """Open a file for rows; the end of its name is one that `format_of` returns.

    Args:
        path: The file to make.
        names: The sources: a Parquet file gets the columns and types of the first one.
        columns: All columns of the rows, in order.
    """
    if path.name.endswith(".parquet"):
        return _ParquetWriter(path, Path(names if isinstance(names, str) else names[0]))
    if path.suffix in (".csv", ".tsv"):
        return _CsvWriter(path, list(columns))
    return _JsonlWriter(path)


class _JsonlWriter:
    def __init__(self, path: Path) -> None:
        self._raw = path.open("wb")
        self._file: Any = self._raw
        if path.suffix == ".gz":  # without a name and a time, so that equal rows give equal files
            self._file = gzip.GzipFile("", "wb", fileobj=self._raw, mtime=0)
        elif path.suffix == ".zst":
            self._file = zstandard.ZstdCompressor().stream_writer(self._raw)

    def write(self, values: Mapping[str, Any]) -> None:
        self._file.write(to_line(values))

    def close(self) -> None:
        self._file.close()
        self._raw.close()


def to_line(values: Mapping[str, Any]) -> bytes:
    """Return a row as a line of JSON in UTF-8. Half of a surrogate pair, which UTF-8 cannot have, is escaped."""
    try:
        return (json.dumps(values, ensure_ascii=False, default=str) + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(values, default=str) + "\n").encode()


class _CsvWriter:
    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._file = io.TextIOWrapper(path.open("wb"), encoding="utf-8", newline="")
        self._writer = csv.DictWriter(self._file, columns, delimiter="\t" if path.suffix == ".tsv" else ",")
        self._writer.writeheader()

    def write(self, values: Mapping[str, Any]) -> None:
        self._writer.writerow(values)

    def close(self) -> None:
        self._file.close()


class _ParquetWriter:
    def __init__(self, path: Path, like: Path) -> None:
        import pyarrow.parquet as pq

        self._schema = pq.read_schema(like)
        self._writer = pq.ParquetWriter(path, self._schema)
        self._rows: list[Mapping[str, Any]] = []

    def write(self, values: Mapping[str, Any]) -> None:
        self._rows.append(values)
        if len(self._rows) == BATCH:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        import pyarrow as pa

        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []


def write_rows(
    folder: Path,
    parts: Mapping[Part, str],
    rows: Iterable[tuple[Part | None, Row]],
    names: str | Sequence[str],
    columns: Iterable[str],
) -> None:
    """Write rows to the files of their parts.

    Args:
        folder: Where to write.
        parts: Name of each part → name of its file.
        rows: The part of each row, and the row; rows without a part are not written.
        names: The sources, as for `open_writer`.
        columns: All columns of the rows, in order.
    """
    writers = {}
    try:
        for part, name in parts.items():
            writers[part] = open_writer(folder / name, names, columns)
        for part_of_row, row in rows:
            if part_of_row is not None:
                writers[part_of_row].write(row.values)
    finally:
        for writer in writers.values():
            writer.close()
