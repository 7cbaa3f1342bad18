"""Find files and datasets by name, and read their rows with the location of each, for later messages.

Rows are streamed, and read again on each iteration, so a file may be larger than memory. A file that cannot be opened,
or a damaged container (Parquet, Arrow), stops the run. Text formats (`text_files`) lose only the damaged line.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from tiltlm.core.errors import ConfigError, DataError
from tiltlm.data.data_settings import DataSettings
from tiltlm.data.files.text_files import Row, read_csv, read_json, read_jsonl

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
"""Names of datasets on the Hub: owner/name."""


@dataclass(frozen=True)
class Source:
    """A file, a folder or a dataset that was found but not read."""

    name: str
    rows: Callable[[], Iterator[Row]]
    """Starts to read its rows."""
    content: Callable[[], list[str] | None]
    """Returns names and digests of everything its rows depend on; None if only reading the rows would show it."""


@dataclass(frozen=True)
class Rows(Iterable[Row]):
    """The rows of several sources, in order."""

    sources: tuple[Source, ...]
    limit: int | None = None
    """Most rows to read, over all sources. None: all."""

    def __iter__(self) -> Iterator[Row]:
        """Read the rows from the start.

        Raises:
            DataError: A source cannot be read or has no rows.
        """
        left = self.limit
        for source in self.sources:
            count = 0
            for count, row in enumerate(islice(source.rows(), left), start=1):  # noqa: B007
                yield row
            if count == 0 and left != 0:
                raise DataError(f"{source.name}: the source has no rows", code="no_rows")
            left = None if left is None else left - count

    def content(self) -> list[list[str]] | None:
        """Return `Source.content` of all sources; None if it is None for one of them."""
        contents = [source.content() for source in self.sources]
        return None if None in contents else [content for content in contents if content is not None]


class Split(NamedTuple):
    """A split of a Hugging Face dataset, and the setting that names it."""

    name: str
    key: str


def read_rows(settings: DataSettings, *, held_out: bool = False) -> Rows:
    """Return the rows of `settings.train`, or those of `settings.eval`, at most `settings.limit`.

    Raises:
        DataError: A source is missing or has an unknown format.
    """
    names = settings.eval if held_out else settings.train
    split = Split(settings.eval_split, "data.eval_split") if held_out else Split(settings.split, "data.split")
    return Rows(tuple(_find(name, settings, split) for name in _as_tuple(names)), settings.limit)


def _as_tuple(names: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return () if names is None else (names,) if isinstance(names, str) else tuple(names)


def _find(name: str, settings: DataSettings, split: Split) -> Source:
    path = Path(name)
    if path.is_dir():
        return _folder(path, split)
    if path.is_file():
        return _of_files(name, [path])
    if HUB_NAME.fullmatch(name) and not _reader(path) and not path.parent.exists():
        return _dataset(name, _hub(name, settings, split))
    raise DataError(
        f"{name}: no such file or folder, and not the name of a dataset on the Hub (owner/name)", code="no_such_path"
    )


def _of_files(name: str, files: Sequence[Path]) -> Source:
    return Source(
        name,
        rows=lambda: (row for file in files for row in _file(file)),
        content=lambda: [f"{file.name} {_digest(file)}" for file in files],
    )


def _digest(file: Path) -> str:
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error}", code="not_readable") from error


def _reader(path: Path) -> Callable[[Path], Iterator[Row]] | None:
    suffixes = "".join(path.suffixes[-2:]).lower()
    for ending, reader in READERS.items():
        if suffixes.endswith(ending):
            return reader
    return None


def _file(path: Path) -> Iterator[Row]:
    reader = _reader(path)
    if reader is None:
        raise DataError(
            f"{path}: unknown file format; the name must end with one of {', '.join(READERS)}",
            code="unknown_file_format",
        )
    try:
        yield from reader(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}", code="not_readable") from error


def _folder(path: Path, split: Split) -> Source:
    if (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists():
        return _dataset(path.name, _saved_dataset(path, split))
    files = [p for p in sorted(path.iterdir()) if p.is_file() and _reader(p)]
    if not files:
        raise DataError(
            f"{path}: the folder has no data file, which ends with one of {', '.join(READERS)}", code="no_data_file"
        )
    return _of_files(str(path), files)


def _dataset(name: str, data: Any) -> Source:
    """Return a Hugging Face dataset as a source. Its own fingerprint changes when rows or their order change."""
    fingerprint = getattr(data, "_fingerprint", None)
    return Source(
        name,
        rows=lambda: _numbered(name, iter(data)),
        content=lambda: None if fingerprint is None else [f"{name} {fingerprint}"],
    )


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield from _numbered(path.name, (row for batch in file.iter_batches(1024) for row in batch.to_pylist()))
    except pa.ArrowException as error:
        raise DataError(f"{path}: not a Parquet file, or damaged: {error}", code="damaged") from error


def _arrow(path: Path) -> Iterator[Row]:
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
            yield from _numbered(path.name, (row for batch in batches for row in batch.to_pylist()))
    except pa.ArrowException as error:
        raise DataError(f"{path}: not an Arrow file, or damaged: {error}", code="damaged") from error


def _numbered(name: str, values: Iterator[dict[str, Any]]) -> Iterator[Row]:
    return (Row(f"{name}[{index}]", dict(row)) for index, row in enumerate(values))


def _saved_dataset(path: Path, split: Split) -> Any:
    import datasets

    data = datasets.load_from_disk(str(path))
    if isinstance(data, datasets.DatasetDict):
        if split.name not in data:
            raise DataError(
                f"{path}: no split {split.name!r}; the dataset has {', '.join(data)}. Set {split.key}",
                code="unknown_split",
                key=split.key,
            )
        data = data[split.name]
    return data


def _hub(name: str, settings: DataSettings, split: Split) -> Any:
    import datasets

    try:
        return datasets.load_dataset(name, settings.subset, split=split.name, revision=settings.revision)
    except (OSError, ValueError) as error:  # offline, unknown name, subset, split or revision
        raise DataError(
            f"{name}: no such file or folder, and it cannot be loaded from the Hub: {error}. Check the name, the "
            f"network, {split.key}={split.name!r}, data.subset={settings.subset!r} and "
            f"data.revision={settings.revision!r}",
            code="not_readable",
        ) from error


def check_hub_settings(settings: DataSettings) -> list[str]:
    """Return a note if the version of a Hub dataset is not fixed.

    Raises:
        ConfigError: A setting for Hub datasets is given, but no source is one.
    """
    if not all(Path(name).exists() for name in (*_as_tuple(settings.train), *_as_tuple(settings.eval))):
        return [] if settings.revision else ["data.revision is not set, so the newest version on the Hub was read"]
    for name in ("subset", "revision"):
        if getattr(settings, name) is not None:
            raise ConfigError(
                f"data.{name} has no effect, because no source is a dataset on the Hub; remove it",
                code="no_effect",
                key=f"data.{name}",
            )
    return []


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": read_jsonl,
    ".jsonl.gz": read_jsonl,
    ".jsonl.zst": read_jsonl,
    ".json": read_json,
    ".json.gz": read_jsonl,
    ".json.zst": read_jsonl,
    ".csv": read_csv,
    ".parquet": _parquet,
    ".arrow": _arrow,
}
"""End of a file name → the function that reads such files."""
