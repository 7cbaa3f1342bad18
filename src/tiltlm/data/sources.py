"""Readers: a name becomes rows, each with the place it stands, so that every later message can point at it.

A file that cannot be opened, or a container format that is damaged, stops; text formats (`tiltlm.data.textfiles`)
survive a damaged line.
"""

import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from tiltlm.core.errors import ConfigError, DataError
from tiltlm.data.settings import DataSettings
from tiltlm.data.textfiles import Row, read_csv, read_json, read_jsonl

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def read(names: str | tuple[str, ...], settings: DataSettings, split: str) -> list[Row]:
    """All rows of these sources, at most `settings.limit`.

    Raises:
        DataError: a source is missing, unreadable or holds no row.
    """
    sources = (names,) if isinstance(names, str) else tuple(names)
    rows: list[Row] = []
    for name in sources:
        before = len(rows)
        limit = None if settings.limit is None else settings.limit - len(rows)
        rows += islice(_open(name, settings, split), limit)
        if len(rows) == before and limit != 0:
            raise DataError(f"{name}: no rows; the file is empty")
    return rows


def files_and_hub(names: str | tuple[str, ...] | None) -> tuple[bool, bool]:
    """Whether any of these names is a path, and whether any is a dataset on the Hub."""
    sources = () if names is None else (names,) if isinstance(names, str) else tuple(names)
    local = [Path(name).exists() for name in sources]
    return any(local), not all(local)


def _open(name: str, settings: DataSettings, split: str) -> Iterator[Row]:
    path = Path(name)
    if path.is_dir():
        return _folder(path, split)
    if path.is_file():
        return _file(path)
    if HUB_NAME.fullmatch(name) and not _reader(path) and not path.parent.exists():
        return _hub(name, settings, split)
    raise DataError(f"{name}: no such file or folder, and no name of a dataset on the Hub (owner/name)")


def _reader(path: Path) -> Callable[[Path], Iterator[Row]] | None:
    suffixes = "".join(path.suffixes[-2:]).lower()
    for ending, reader in READERS.items():
        if suffixes.endswith(ending):
            return reader
    return None


def _file(path: Path) -> Iterator[Row]:
    reader = _reader(path)
    if reader is None:
        raise DataError(f"{path}: unknown kind of file; known endings: {', '.join(READERS)}")
    try:
        yield from reader(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _folder(path: Path, split: str) -> Iterator[Row]:
    if (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists():
        yield from _saved_dataset(path, split)
        return
    files = [p for p in sorted(path.iterdir()) if p.is_file() and _reader(p)]
    if not files:
        raise DataError(f"{path}: a folder without a data file; known endings: {', '.join(READERS)}")
    for file in files:
        yield from _file(file)


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield from _numbered(path.name, (row for batch in file.iter_batches() for row in batch.to_pylist()))
    except pa.ArrowException as error:
        raise DataError(f"{path}: no Parquet file, or a damaged one: {error}") from error


def _arrow(path: Path) -> Iterator[Row]:
    """An Arrow file, or the Arrow stream that Hugging Face datasets write."""
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as file:
            try:
                table = pa.ipc.open_stream(file).read_all()
            except pa.ArrowInvalid:
                file.seek(0)
                table = pa.ipc.open_file(file).read_all()
            yield from _numbered(path.name, (row for batch in table.to_batches() for row in batch.to_pylist()))
    except pa.ArrowException as error:
        raise DataError(f"{path}: no Arrow file, or a damaged one: {error}") from error


def _numbered(name: str, values: Iterator[dict[str, Any]]) -> Iterator[Row]:
    return (Row(f"{name}[{index}]", dict(row)) for index, row in enumerate(values))


def _saved_dataset(path: Path, split: str) -> Iterator[Row]:
    import datasets

    data = datasets.load_from_disk(str(path))
    if isinstance(data, datasets.DatasetDict):
        if split not in data:
            raise DataError(f"{path}: no split {split!r}; it has {', '.join(data)}. Set data.split")
        data = data[split]
    return _numbered(path.name, iter(data))


def _hub(name: str, settings: DataSettings, split: str) -> Iterator[Row]:
    import datasets

    try:
        data = datasets.load_dataset(name, settings.subset, split=split, revision=settings.revision)
    except (OSError, ValueError) as error:  # offline, unknown name, subset, split or revision
        raise DataError(
            f"{name}: no such file or folder here, and as a dataset on the Hub (split {split!r}, subset "
            f"{settings.subset!r}, revision {settings.revision!r}) it cannot be loaded: {error}"
        ) from error
    return _numbered(name, iter(data))


def check_hub_settings(settings: DataSettings) -> list[str]:
    """Refuse settings of Hub datasets where there is none; say when a version is not pinned."""
    hub = files_and_hub(settings.train)[1] or files_and_hub(settings.eval)[1]
    if hub:
        return [] if settings.revision else ["data.revision is not set: the newest version on the Hub was read"]
    for name in ("subset", "revision"):
        if getattr(settings, name) is not None:
            raise ConfigError(f"data.{name} has no effect: no source is a dataset on the Hub")
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
