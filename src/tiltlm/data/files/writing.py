"""Write rows to a file or a folder of Hugging Face datasets, by the ending of its name.

The same rows give the same bytes. A reader sees the complete file or the one before: it gets its name at the end.
"""

import csv
import gzip
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tiltlm.core.errors import ConfigError, DataError
from tiltlm.storage.files import atomic_file, atomic_folder, not_written

if TYPE_CHECKING:  # pyarrow takes a moment
    import pyarrow as pa

BATCH = 1000
"""Rows of a batch in Parquet and Arrow files."""
PACKED = ("", ".gz", ".zst")
AS_JSON = frozenset({"tools", "chat_template_kwargs"})
"""Columns with mappings of any keys. Arrow would give all of them the same keys, so they are written as JSON text."""
DATASET_FILES = frozenset({"dataset_info.json", "state.json"})

Row = Mapping[str, Any]
Write = Callable[[Row], None]
Opener = Callable[[IO[bytes]], AbstractContextManager[Write]]
"""Opens a file for rows, from a file of bytes."""


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


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write rows atomically, as `open_rows` does. If the rows raise an error, nothing changes.

    Args:
        path: The file, whose ending decides its format. Without an ending: a folder of Hugging Face datasets.
        rows: Column → value, in JSON's types.
    """
    with open_rows(path) as write:
        for row in rows:
            write(row)


@contextmanager
def open_rows(path: Path, like: Path | None = None, *, key: str | None = None) -> Iterator[Write]:
    """Open a file for rows. It gets its name at the end of the block; if the block raises an error, nothing changes.

    Args:
        path: The file, whose ending decides its format. Without an ending: a folder of Hugging Face datasets.
        like: A Parquet file whose columns and types a Parquet file gets. None: they are found from the rows.
        key: The option that names the file, for the error.

    Yields:
        A function that writes a row: column → value. Other values than those of JSON are written as text where the
        format has no types.

    Raises:
        ConfigError: The ending is unknown.
        DataError: The file's format cannot hold these values.
        RunError: The file cannot be written.
    """
    check_ending(path)
    ending = _ending(path)
    try:
        if not ending:
            with _dataset(path) as write:
                yield write
        else:
            opened = _parquet_like(like) if ending == ".parquet" and like is not None else WRITERS[ending]
            with atomic_file(path) as file, _packed(file, path) as packed, opened(packed) as write:
                yield write
    except OSError as error:
        raise not_written(path, error, key) from error


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
    """Return a value as one line of JSON. What JSON has no type for, such as a date, becomes text."""
    return json.dumps(value, ensure_ascii=False, default=str)


def to_line(value: Any) -> bytes:
    """Return a value as a line of JSON in UTF-8. Half of a surrogate pair, which UTF-8 cannot have, is escaped."""
    try:
        return (json_text(value) + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(value, default=str) + "\n").encode()


@contextmanager
def _jsonl(file: IO[bytes]) -> Iterator[Write]:
    yield lambda row: _write(file, to_line(row))


@contextmanager
def _json(file: IO[bytes]) -> Iterator[Write]:
    """Write an array, one row a line."""
    num_rows = 0

    def write(row: Row) -> None:
        nonlocal num_rows
        _write(file, (b",\n" if num_rows else b"[\n") + to_line(row).rstrip(b"\n"))
        num_rows += 1

    yield write
    _write(file, b"\n]\n" if num_rows else b"[]\n")


def _write(file: IO[bytes], content: bytes) -> None:
    file.write(content)


def _table(delimiter: str) -> Opener:
    """Return what writes text with a header. What is not text or a number becomes JSON text."""

    @contextmanager
    def opened(file: IO[bytes]) -> Iterator[Write]:
        with _Spool() as spool:
            yield spool.add
            text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
            # all fields in quotes: the writer of Python 3.11 leaves a field with a bare carriage return without them
            table = csv.writer(text, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL)
            table.writerow(spool.columns)
            for row in spool.rows():
                table.writerow([_cell(row.get(column)) for column in spool.columns])
            text.flush()
            text.detach()

    return opened


def _cell(value: Any) -> Any:
    return "" if value is None else value if isinstance(value, str) else json_text(value)


class _Spool:
    """Rows in a temporary file, for formats that need to know all columns first."""

    def __init__(self) -> None:
        self.columns: dict[str, None] = {}
        """All columns, in the order in which they were seen."""
        self._file = tempfile.TemporaryFile()  # noqa: SIM115

    def __enter__(self) -> "_Spool":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, row: Row) -> None:
        """Append a row."""
        self.columns |= dict.fromkeys(row)
        self._file.write(to_line(row))

    def rows(self) -> Iterator[dict[str, Any]]:
        """Read the rows from the start."""
        self._file.seek(0)
        for line in self._file:
            yield json.loads(line)


@contextmanager
def _parquet(file: IO[bytes]) -> Iterator[Write]:
    import pyarrow.parquet as pq

    with _Spool() as spool:
        yield lambda row: spool.add(_for_arrow(row))
        with _arrow_batches(spool) as (schema, batches), pq.ParquetWriter(file, schema) as writer:
            for batch in batches:
                writer.write_table(batch)


def _parquet_like(like: Path) -> Opener:
    """Return what writes Parquet with the columns and types of another file."""

    @contextmanager
    def opened(file: IO[bytes]) -> Iterator[Write]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema, rows = pq.read_schema(like), list[Row]()
        with pq.ParquetWriter(file, schema) as writer:

            def flush() -> None:
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
                rows.clear()

            def write(row: Row) -> None:
                rows.append(row)
                if len(rows) == BATCH:
                    flush()

            yield write
            flush()

    return opened


@contextmanager
def _arrow(file: IO[bytes]) -> Iterator[Write]:
    """Write an Arrow stream, as Hugging Face datasets do."""
    import pyarrow as pa

    with _Spool() as spool:
        yield lambda row: spool.add(_for_arrow(row))
        with _arrow_batches(spool) as (schema, batches), pa.ipc.new_stream(file, schema) as writer:
            for batch in batches:
                writer.write_table(batch)


@contextmanager
def _arrow_batches(spool: _Spool) -> Iterator[tuple["pa.Schema", Iterator["pa.Table"]]]:
    """Yield the types of all columns, and the rows as tables of these types.

    Raises:
        DataError: A column has values of several types.
    """
    import pyarrow as pa

    try:
        found = [pa.Table.from_pylist(batch).schema for batch in _batches(spool)]
        schema = pa.unify_schemas(found, promote_options="permissive") if found else pa.schema([])
        yield schema, (pa.Table.from_pylist(batch, schema=schema) for batch in _batches(spool))
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"a column has values of several types, which Parquet and Arrow cannot hold: {error}. Write JSON "
            "Lines: a name that ends with .jsonl",
            code="mixed_types",
            key="OUT",
        ) from error


def _batches(spool: _Spool) -> Iterator[list[dict[str, Any]]]:
    """Yield lists of rows that have all columns: types are found by those of the first row."""
    batch: list[dict[str, Any]] = []
    for row in spool.rows():
        batch.append({column: row.get(column) for column in spool.columns})
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


@contextmanager
def _dataset(path: Path) -> Iterator[Write]:
    """Write a folder as `save_to_disk` does. Another such folder of this name is replaced."""
    import hashlib

    import datasets

    with tempfile.TemporaryDirectory(dir=path.absolute().parent) as scratch:
        file = Path(scratch) / "rows.arrow"
        with file.open("wb") as stream, _arrow(stream) as write:
            yield write
        with file.open("rb") as written:
            digest = hashlib.file_digest(written, "sha256").hexdigest()[:16]
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


WRITERS: dict[str, Opener] = {
    **{
        f"{ending}{packed}": opener
        for ending, opener in {".jsonl": _jsonl, ".json": _json, ".csv": _table(","), ".tsv": _table("\t")}.items()
        for packed in PACKED
    },
    ".parquet": _parquet,
    ".arrow": _arrow,
}
"""End of a file name → what opens such a file for rows."""

KEPT = tuple(ending for ending in WRITERS if ending.startswith((".jsonl", ".csv", ".tsv", ".parquet")))
"""Ends of names of files whose rows are kept as they are in a file of the same kind."""


def format_of(names: Sequence[str]) -> str:
    """Return the end of the names of files that hold the rows of sources as they are.

    It is that of the sources if all are files with the same one, Parquet files also with the same columns and types.
    Else it is that of JSON Lines.
    """
    ends = {next((end for end in KEPT if name.lower().endswith(end) and Path(name).is_file()), "") for name in names}
    if ends == {".parquet"}:
        import pyarrow.parquet as pq

        schema = pq.read_schema(names[0])
        if not all(schema.equals(pq.read_schema(name)) for name in names[1:]):
            return ".jsonl"
    return ends.pop() or ".jsonl" if len(ends) == 1 else ".jsonl"
