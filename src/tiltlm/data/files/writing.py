"""Write rows to a file or a folder of Hugging Face datasets, by the ending of its name.

The same rows give the same bytes. A reader sees the complete file or the one before: it gets its name at the end.
"""

import csv
import gzip
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tiltlm.core.errors import ConfigError, DataError, RunError
from tiltlm.storage.files import atomic_file, atomic_folder

if TYPE_CHECKING:  # pyarrow takes a moment
    import pyarrow as pa

BATCH = 1000
"""Rows of a batch in Parquet and Arrow files."""
PACKED = ("", ".gz", ".zst")
AS_JSON = frozenset({"tools", "chat_template_kwargs"})
"""Columns with mappings of any keys. Arrow would give all of them the same keys, so they are written as JSON text."""
DATASET_FILES = frozenset({"dataset_info.json", "state.json"})

Row = Mapping[str, Any]
Rows = Iterable[Row]


def check_ending(path: Path) -> None:
    """Raise if no rows can be written to a file of this name.

    Raises:
        ConfigError: The ending is unknown.
    """
    if not _ending(path) and path.suffix:
        raise ConfigError(
            f"{path}: unknown file format; the name must end with one of {', '.join(WRITERS)}, or have no ending for "
            "a folder of Hugging Face datasets",
            code="unknown_file_format",
            key="OUT",
        )


def _ending(path: Path) -> str:
    """Return the ending that decides the format; "" for a folder."""
    name = path.name.lower()
    return next((ending for ending in WRITERS if name.endswith(ending)), "")


def write_rows(path: Path, rows: Rows) -> None:
    """Write rows atomically. If the rows raise an error, nothing changes.

    Args:
        path: The file, whose ending decides its format. Without an ending: a folder of Hugging Face datasets.
        rows: Column → value, in JSON's types.

    Raises:
        ConfigError: The ending is unknown.
        DataError: The file's format cannot hold these values.
        RunError: The file cannot be written.
    """
    check_ending(path)
    ending = _ending(path)
    try:
        if not ending:
            _write_dataset(path, rows)
            return
        with atomic_file(path) as file, _packed(file, path) as packed:
            WRITERS[ending](packed, rows)
    except OSError as error:
        raise RunError(f"{path} could not be written ({error})", code="not_writable") from error


@contextmanager
def _packed(file: IO[bytes], path: Path) -> Iterator[IO[bytes]]:
    """Yield a file that compresses what is written, if the name says so. No name and no time are in its header."""
    if path.suffix.lower() == ".gz":
        with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
            yield packed  # type: ignore[misc]
    elif path.suffix.lower() == ".zst":
        import zstandard

        with zstandard.ZstdCompressor().stream_writer(file, closefd=False) as packed:
            yield packed
    else:
        yield file


def json_text(value: Any) -> str:
    """Return a value as one line of JSON."""
    return json.dumps(value, ensure_ascii=False)


def _write_jsonl(file: IO[bytes], rows: Rows) -> None:
    for row in rows:
        file.write((json_text(row) + "\n").encode())


def _write_json(file: IO[bytes], rows: Rows) -> None:
    """Write an array, one row a line."""
    before = "[\n"
    for row in rows:
        file.write((before + json_text(row)).encode())
        before = ",\n"
    file.write(b"[]\n" if before == "[\n" else b"\n]\n")


def _write_table(delimiter: str) -> Callable[[IO[bytes], Rows], None]:
    """Return what writes text with a header. What is not text or a number becomes JSON text."""

    def write(file: IO[bytes], rows: Rows) -> None:
        with tempfile.TemporaryFile() as spool:
            columns = _spool(spool, rows)
            text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
            # all fields in quotes: the writer of Python 3.11 leaves a field with a bare carriage return without them
            table = csv.writer(text, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL)
            table.writerow(columns)
            for row in _spooled(spool):
                table.writerow([_cell(row.get(column)) for column in columns])
            text.flush()
            text.detach()

    return write


def _cell(value: Any) -> Any:
    return "" if value is None else value if isinstance(value, str) else json_text(value)


def _spool(spool: IO[bytes], rows: Rows) -> list[str]:
    """Write rows to a temporary file, for formats that need to know all columns first, and return the columns."""
    columns: dict[str, None] = {}
    for row in rows:
        columns |= dict.fromkeys(row)
        spool.write((json_text(row) + "\n").encode())
    return list(columns)


def _spooled(spool: IO[bytes]) -> Iterator[dict[str, Any]]:
    spool.seek(0)
    for line in spool:
        yield json.loads(line)


def _write_parquet(file: IO[bytes], rows: Rows) -> None:
    import pyarrow.parquet as pq

    with _arrow_batches(rows) as (schema, batches), pq.ParquetWriter(file, schema) as writer:
        for batch in batches:
            writer.write_table(batch)


def _write_arrow(file: IO[bytes], rows: Rows) -> None:
    """Write an Arrow stream, as Hugging Face datasets do."""
    import pyarrow as pa

    with _arrow_batches(rows) as (schema, batches), pa.ipc.new_stream(file, schema) as writer:
        for batch in batches:
            writer.write_table(batch)


@contextmanager
def _arrow_batches(rows: Rows) -> Iterator[tuple["pa.Schema", Iterator["pa.Table"]]]:
    """Yield the types of all columns, and the rows as tables of these types.

    Raises:
        DataError: A column has values of several types.
    """
    import pyarrow as pa

    with tempfile.TemporaryFile() as spool:
        columns = _spool(spool, map(_for_arrow, rows))
        try:
            found = [pa.Table.from_pylist(batch).schema for batch in _batches(spool, columns)]
            schema = pa.unify_schemas(found, promote_options="permissive") if found else pa.schema([])
            yield schema, (pa.Table.from_pylist(batch, schema=schema) for batch in _batches(spool, columns))
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            raise DataError(
                f"a column has values of several types, which Parquet and Arrow cannot hold: {error}. Write JSON "
                "Lines: a name that ends with .jsonl",
                code="mixed_types",
                key="OUT",
            ) from error


def _batches(spool: IO[bytes], columns: list[str]) -> Iterator[list[dict[str, Any]]]:
    """Yield lists of rows that have all columns: types are found by those of the first row."""
    batch: list[dict[str, Any]] = []
    for row in _spooled(spool):
        batch.append({column: row.get(column) for column in columns})
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _for_arrow(row: Row) -> dict[str, Any]:
    """Return a row in which mappings of any keys are JSON text: tools, and the arguments of tool calls."""
    return {
        column: json_text(value) if column in AS_JSON and not isinstance(value, str) else _with_text_arguments(value)
        for column, value in row.items()
    }


def _with_text_arguments(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_text_arguments(item) for item in value]
    if value == {}:  # Parquet has no type for it
        return None
    if isinstance(value, dict):
        return {
            key: json_text(item) if key == "arguments" and isinstance(item, dict)
            else json_text(item) if key == "tools" else _with_text_arguments(item)
            for key, item in value.items()
        }  # fmt: skip
    return value


def _write_dataset(path: Path, rows: Rows) -> None:
    """Write a folder as `save_to_disk` does. Another such folder of this name is replaced."""
    import hashlib

    import datasets

    with tempfile.TemporaryDirectory(dir=path.absolute().parent) as scratch:
        file = Path(scratch) / "rows.arrow"
        with file.open("wb") as stream:
            _write_arrow(stream, rows)
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()[:16]
        table = datasets.table.MemoryMappedTable.from_file(str(file))
        old = Path(scratch) / "replaced"
        with atomic_folder(path) as unfinished:
            datasets.Dataset(table, fingerprint=digest).save_to_disk(str(unfinished))
            if path.exists():
                path.rename(old)
        shutil.rmtree(old, ignore_errors=True)


def is_dataset_folder(path: Path) -> bool:
    """Return whether a folder is one that `write_rows` may replace: a saved dataset and nothing else."""
    names = {entry.name for entry in path.iterdir()}
    return names >= DATASET_FILES and all(name in DATASET_FILES or name.endswith(".arrow") for name in names)


WRITERS: dict[str, Callable[[IO[bytes], Rows], None]] = {
    **{
        f"{ending}{packed}": writer
        for ending, writer in {
            ".jsonl": _write_jsonl,
            ".json": _write_json,
            ".csv": _write_table(","),
            ".tsv": _write_table("\t"),
        }.items()
        for packed in PACKED
    },
    ".parquet": _write_parquet,
    ".arrow": _write_arrow,
}
"""End of a file name → the function that writes such files."""
