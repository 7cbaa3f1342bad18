"""Readers: a name becomes rows, each with the place it stands, so that every later message can point at it.

Rows are streamed, and read anew each time they are iterated: a file larger than memory is no matter. A file that cannot
be opened, or a container format that is damaged, stops; text formats (`text_files`) survive a damaged line.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tiltlm.core.errors import ConfigError, DataError
from tiltlm.data.data_settings import DataSettings
from tiltlm.data.files.text_files import Row, read_csv, read_json, read_jsonl

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Source:
    """A file, a folder or a dataset, found but not read."""

    name: str
    rows: Callable[[], Iterator[Row]]
    """Begins to read its rows."""
    content: Callable[[], list[str] | None]
    """What its rows depend on, their names among it; None where that cannot be said without reading them."""


@dataclass(frozen=True)
class Rows(Iterable[Row]):
    """The rows of several sources, one after another."""

    sources: tuple[Source, ...]
    limit: int | None = None
    """How many rows, over all sources."""

    def __iter__(self) -> Iterator[Row]:
        """Read them from the start.

        Raises:
            DataError: a source is unreadable or holds no row.
        """
        left = self.limit
        for source in self.sources:
            count = 0
            for count, row in enumerate(islice(source.rows(), left), start=1):  # noqa: B007
                yield row
            if count == 0 and left != 0:
                raise DataError(f"{source.name}: no rows; the file is empty", code="no_rows")
            left = None if left is None else left - count

    def content(self) -> list[list[str]] | None:
        """What these rows depend on; None where a source cannot say."""
        contents = [source.content() for source in self.sources]
        return None if None in contents else [content for content in contents if content is not None]


def read_rows(names: str | tuple[str, ...], settings: DataSettings, split: str) -> Rows:
    """The rows of these sources, at most `settings.limit`.

    Raises:
        DataError: a source is missing, or of an unknown kind.
    """
    sources = (names,) if isinstance(names, str) else tuple(names)
    return Rows(tuple(_find(name, settings, split) for name in sources), settings.limit)


def files_and_hub(names: str | tuple[str, ...] | None) -> tuple[bool, bool]:
    """Whether any of these names is a path, and whether any is a dataset on the Hub."""
    sources = () if names is None else (names,) if isinstance(names, str) else tuple(names)
    local = [Path(name).exists() for name in sources]
    return any(local), not all(local)


def _find(name: str, settings: DataSettings, split: str) -> Source:
    path = Path(name)
    if path.is_dir():
        return _folder(path, split)
    if path.is_file():
        return _of_files(name, [path])
    if HUB_NAME.fullmatch(name) and not _reader(path) and not path.parent.exists():
        return _dataset(name, _hub(name, settings, split))
    raise DataError(
        f"{name}: no such file or folder, and no name of a dataset on the Hub (owner/name)", code="no_such_path"
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
            f"{path}: unknown kind of file; known endings: {', '.join(READERS)}", code="unknown_file_format"
        )
    try:
        yield from reader(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}", code="not_readable") from error


def _folder(path: Path, split: str) -> Source:
    if (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists():
        return _dataset(path.name, _saved_dataset(path, split))
    files = [p for p in sorted(path.iterdir()) if p.is_file() and _reader(p)]
    if not files:
        raise DataError(
            f"{path}: a folder without a data file; known endings: {', '.join(READERS)}", code="no_data_file"
        )
    return _of_files(str(path), files)


def _dataset(name: str, data: Any) -> Source:
    """A Hugging Face dataset: Arrow files under its own fingerprint, which moves when rows or their order do."""
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
        raise DataError(f"{path}: no Parquet file, or a damaged one: {error}", code="damaged") from error


def _arrow(path: Path) -> Iterator[Row]:
    """An Arrow file, or the Arrow stream that Hugging Face datasets write; mapped, so only rows at hand are objects."""
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
        raise DataError(f"{path}: no Arrow file, or a damaged one: {error}", code="damaged") from error


def _numbered(name: str, values: Iterator[dict[str, Any]]) -> Iterator[Row]:
    return (Row(f"{name}[{index}]", dict(row)) for index, row in enumerate(values))


def _saved_dataset(path: Path, split: str) -> Any:
    import datasets

    data = datasets.load_from_disk(str(path))
    if isinstance(data, datasets.DatasetDict):
        if split not in data:
            raise DataError(
                f"{path}: no split {split!r}; it has {', '.join(data)}. Set data.split", code="unknown_split"
            )
        data = data[split]
    return data


def _hub(name: str, settings: DataSettings, split: str) -> Any:
    import datasets

    try:
        return datasets.load_dataset(name, settings.subset, split=split, revision=settings.revision)
    except (OSError, ValueError) as error:  # offline, unknown name, subset, split or revision
        raise DataError(
            f"{name}: no such file or folder here, and as a dataset on the Hub (split {split!r}, subset "
            f"{settings.subset!r}, revision {settings.revision!r}) it cannot be loaded: {error}",
            code="not_readable",
        ) from error


def check_hub_settings(settings: DataSettings) -> list[str]:
    """Refuse settings of Hub datasets where there is none; say when a version is not pinned."""
    hub = files_and_hub(settings.train)[1] or files_and_hub(settings.eval)[1]
    if hub:
        return [] if settings.revision else ["data.revision is not set: the newest version on the Hub was read"]
    for name in ("subset", "revision"):
        if getattr(settings, name) is not None:
            raise ConfigError(
                f"data.{name} has no effect: no source is a dataset on the Hub", code="no_effect", key=f"data.{name}"
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
