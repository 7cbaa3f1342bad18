"""Find files and datasets by name, and read their rows with the location of each, for later messages.

Rows are streamed, and read again on each iteration, so a file may be larger than memory. A file that cannot be opened,
or a damaged container (Parquet, Arrow), stops the run. Text formats (`text_files`) lose only the damaged line.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tiltlm.core.errors import ConfigError, DataError
from tiltlm.core.notes import Note
from tiltlm.data.data_settings import OF_LABELS, DataSettings, paths_of, sources_of
from tiltlm.data.files.arrow_files import arrow_rows, read_arrow, read_parquet
from tiltlm.data.files.folders import data_files, files_by_split
from tiltlm.data.files.label_databases import database_rows, is_database, read_database
from tiltlm.data.files.packed import damage_of
from tiltlm.data.files.text_files import ReadLimits, Row, read_csv, read_json, read_jsonl
from tiltlm.data.labels.project_votes import content_digest
from tiltlm.data.labels.rules import LabelSettings
from tiltlm.storage.hub import COMMIT, commit_of, unreachable

T = TypeVar("T")

TEXT_READERS = {".jsonl": read_jsonl, ".json": read_json, ".csv": read_csv, ".tsv": read_csv}
"""End of the name of a text file, before that of a compression → the function that reads such files."""

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
"""Names of datasets on the Hub: owner/name."""
NEWEST = "data.revision is not set, so the newest version on the Hub was read"


@dataclass(frozen=True)
class Source:
    """A file, a folder or a dataset that was found but not read."""

    name: str
    rows: Callable[[], Iterator[Row]]
    """Starts to read its rows."""
    content: Callable[[], list[str] | None]
    """Returns names and digests of everything its rows depend on; None if only reading the rows would show it."""
    has_splits: bool = False
    """True if it has splits, of which one was chosen."""
    notes: tuple[Note, ...] = ()
    """What the user must know about its files."""
    commit: str | None = None
    """The commit of a dataset on the Hub; None for files, or if it is unknown."""
    label: str | None = None
    """`Row.source` of its rows."""
    origin: str = ""
    """`Row.origin` of its rows."""


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
        for entry, source in enumerate(self.sources):
            count = 0
            is_plain = entry == 0 and source.label is None and not source.origin
            for count, row in enumerate(islice(source.rows(), left), start=1):  # noqa: B007
                yield row if is_plain else replace(row, entry=entry, source=source.label, origin=source.origin)
            if count == 0 and left != 0:
                raise DataError(f"{source.name}: the source has no rows", code="no_rows")
            left = None if left is None else left - count

    def firsts(self, count: int) -> list["Rows"]:
        """Return the first `count` rows of each source, or all rows if their limit is not above it."""
        if self.limit is not None and self.limit <= count:
            return [self]
        return [replace(self, sources=(source,), limit=count) for source in self.sources]

    @property
    def notes(self) -> list[Note]:
        """Return the notes of all sources."""
        return [note for source in self.sources for note in source.notes]

    @property
    def commits(self) -> dict[str, str]:
        """Return the commit of each dataset on the Hub."""
        return {source.name: source.commit for source in self.sources if source.commit is not None}

    def content(self) -> list[list[str]] | None:
        """Return `Source.content` of all sources; None if it is None for one of them."""
        contents = [(source.content(), source.label) for source in self.sources]
        if any(content is None for content, _ in contents):
            return None
        return [[*(content or ()), *([f"source {label}"] if label else [])] for content, label in contents]


class Split(NamedTuple):
    """The split to read, and the setting that names it."""

    name: str
    key: str


def read_rows(settings: DataSettings, *, held_out: bool = False, mixes: bool = False) -> Rows:
    """Return the rows of `settings.train`, or those of `settings.eval`, at most `settings.limit`.

    Args:
        settings: Sources, and how to read them.
        held_out: True for `settings.eval`.
        mixes: True if the caller applies the weights and caps of the sources.

    Raises:
        ConfigError: A split is named, but no source has splits; or a setting for the Hub, but no source is from there;
            or a source has a weight or a cap, which the caller does not apply.
        DataError: A source is missing, has an unknown format, or does not have the split.
    """
    _check_hub_settings(settings)
    _check_label_settings(settings)
    names, given, usual = (
        (settings.eval, settings.eval_split, "test") if held_out else (settings.train, settings.split, "train")
    )
    entries = sources_of(names)
    for entry in entries:
        if not (mixes or entry.is_whole):
            raise ConfigError(
                f"data.train: {entry.path}: weight and cap have no effect here, because this command reads all rows; "
                "remove them",
                code="no_effect",
                key="data.train",
            )
    split = Split(given or usual, "data.eval_split" if held_out else "data.split")
    origins = origins_of([entry.path for entry in entries])
    sources = tuple(
        replace(_find(entry.path, settings, split), label=entry.source, origin=origin)
        for entry, origin in zip(entries, origins, strict=True)
    )
    if given is not None and not any(source.has_splits for source in sources):
        names = ", ".join(source.name for source in sources)
        raise ConfigError(
            f"{split.key}={given} has no effect, because there are no splits in {names}; remove it",
            code="no_effect",
            key=split.key,
        )
    return Rows(sources, settings.limit)


def origins_of(paths: Sequence[str]) -> list[str]:
    """Return the names by which several sources are told apart: the last part of their paths, if these differ.

    A single source needs no name.
    """
    if len(paths) < 2:
        return [""] * len(paths)
    short = [Path(path).name if Path(path).exists() else path for path in paths]
    return short if len(set(short)) == len(short) else list(paths)


def _find(name: str, settings: DataSettings, split: Split) -> Source:
    path, limits = Path(name), limits_of(settings)
    if name.startswith(("postgres://", "postgresql://")):
        raise DataError(
            "a PostgreSQL database cannot be read as data; write its labels to a file: "
            "tiltlm label export labels.jsonl --database ADDRESS",
            code="unknown_file_format",
        )
    if path.is_dir():
        return _folder(path, split, limits)
    if path.is_file() and is_database(path):
        return _database(name, path, settings)
    if path.is_file():
        return _of_files(name, [path], limits)
    if HUB_NAME.fullmatch(name) and not _reader(path) and not path.parent.exists():
        return _hub(name, settings, split, limits)
    raise DataError(
        f"{name}: no such file or folder, and not the name of a dataset on the Hub (owner/name)", code="no_such_path"
    )


def _database(name: str, path: Path, settings: DataSettings) -> Source:
    """Return a labelling project as a source. Its votes are read once, so that every reading gives the same rows."""
    rule = LabelSettings(settings.label_rule, settings.label_ties, settings.min_votes)
    votes = cache(lambda: read_database(path))
    return Source(
        name,
        rows=lambda: database_rows(path, votes(), rule),
        content=lambda: [f"{path.name} votes {content_digest(votes())}"],
    )


def limits_of(settings: DataSettings) -> ReadLimits:
    """Return what is refused while files are read."""
    return ReadLimits(round(settings.max_row_mb * 1e6), settings.damaged_files == "sound_rows")


def _of_files(name: str, files: Sequence[Path], limits: ReadLimits) -> Source:
    return Source(
        name,
        rows=lambda: (row for file in files for row in _file(file, limits)),
        content=lambda: [f"{file.name} {_readable(file, _digest)}" for file in files],
        notes=tuple(_notes_on_damage(files) if limits.keeps_sound else ()),
    )


def _notes_on_damage(files: Sequence[Path]) -> Iterator[Note]:
    """Yield a note on each damaged file of which only the first lines are used."""
    for file in files:
        if (damage := _readable(file, damage_of)) is not None:
            yield Note(
                f"{file}: the compressed file is damaged ({damage.reason}); its first {damage.sound_lines:,} lines are "
                "used, and how many rows are lost is unknown",
                "rows_lost",
            )


def _readable(file: Path, read: Callable[[Path], T]) -> T:
    """Return what a function reads from a file.

    Raises:
        DataError: The system refuses to read it.
    """
    try:
        return read(file)
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error}", code="not_readable") from error


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _reader(path: Path) -> Callable[[Path, ReadLimits], Iterator[Row]] | None:
    suffixes = "".join(path.suffixes[-2:]).lower()
    for ending, reader in READERS.items():
        if suffixes.endswith(ending):
            return reader
    return None


def _file(path: Path, limits: ReadLimits) -> Iterator[Row]:
    reader = _reader(path)
    if reader is None:
        raise DataError(
            f"{path}: unknown file format; the name must end with one of {', '.join(READERS)}",
            code="unknown_file_format",
        )
    try:
        yield from reader(path, limits)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}", code="not_readable") from error


def _folder(path: Path, split: Split, limits: ReadLimits) -> Source:
    if (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists():
        return _saved_dataset(path, split, limits)
    files = data_files(path, lambda file: _reader(file) is not None)
    if not files:
        raise DataError(
            f"{path}: the folder has no data file, which ends with one of {', '.join(READERS)}", code="no_data_file"
        )
    splits = files_by_split(files, path)
    if not splits:
        return _of_files(str(path), files, limits)
    chosen = _choose(str(path), splits, split)
    left_out = [file for file in files if file not in chosen]
    note = f"{path}: read the split {split.name}: {_few(chosen)}" + f"; not read: {_few(left_out)}" * bool(left_out)
    found = _of_files(str(path), chosen, limits)
    return replace(found, has_splits=True, notes=(Note(note, "split_files"), *found.notes))


def _few(files: Sequence[Path]) -> str:
    """Return the names of files, the first ones of many."""
    return ", ".join(file.name for file in files[:5]) + f" and {len(files) - 5} more" * (len(files) > 5)


def _choose(name: str, splits: Mapping[str, T], split: Split) -> T:
    """Return a split by its name.

    Raises:
        DataError: It does not exist.
    """
    if split.name not in splits:
        raise DataError(
            f"{name}: no split {split.name!r}; there are {', '.join(splits)}. Set {split.key}",
            code="unknown_split",
            key=split.key,
        )
    return splits[split.name]


def _dataset(name: str, data: Any, limits: ReadLimits, *, has_splits: bool) -> Source:
    """Return a Hugging Face dataset as a source. Its own fingerprint changes when rows or their order change."""
    fingerprint = getattr(data, "_fingerprint", None)
    return Source(
        name,
        rows=lambda: arrow_rows(name, map(dict, data), limits),
        content=lambda: None if fingerprint is None else [f"{name} {fingerprint}"],
        has_splits=has_splits,
    )


def _saved_dataset(path: Path, split: Split, limits: ReadLimits) -> Source:
    import datasets

    data = datasets.load_from_disk(str(path))
    if isinstance(data, datasets.DatasetDict):
        return _dataset(path.name, _choose(str(path), data, split), limits, has_splits=True)
    return _dataset(path.name, data, limits, has_splits=False)


def _hub(name: str, settings: DataSettings, split: Split, limits: ReadLimits) -> Source:
    """Load a dataset from the Hub or its cache.

    Raises:
        DataError: It cannot be loaded, or the cache has another commit than the settings ask for.
    """
    if reason := unreachable(name, "dataset"):
        raise DataError(
            f"{name}: no such file or folder, and as a dataset on the Hub it cannot be read: {reason}",
            code="not_reachable",
        )
    import datasets

    commit = commit_of(name, "dataset", settings.revision)
    try:
        data = datasets.load_dataset(name, settings.subset, split=split.name, revision=commit or settings.revision)
    except (OSError, ValueError) as error:  # offline, unknown name, subset, split or revision
        raise DataError(
            f"{name}: no such file or folder, and it cannot be loaded from the Hub: {error}. Check the name, the "
            f"network, {split.key}={split.name!r}, data.subset={settings.subset!r} and "
            f"data.revision={settings.revision!r}",
            code="not_readable",
        ) from error
    read = _commit_of_cache(data) or commit
    if settings.revision is not None and commit is not None and read != commit:
        raise DataError(
            f"{name}: the cache has commit {read}, and data.revision={settings.revision} is {commit}; connect to the "
            f"network, or set data.revision={read}",
            code="other_revision",
            key="data.revision",
        )
    notes = [] if settings.revision else [Note(f"{name}: {NEWEST}", "newest_revision")]
    notes += [Note(f"{name}: commit {read}", "commit")] if read else []
    return replace(_dataset(name, data, limits, has_splits=True), notes=tuple(notes), commit=read)


def _commit_of_cache(data: Any) -> str | None:
    """Return the commit of which `datasets` made the files of a dataset: the name of their folder."""
    for file in getattr(data, "cache_files", None) or ():
        folder = Path(file["filename"]).parent.name
        if COMMIT.fullmatch(folder):
            return folder
    return None


def _check_hub_settings(settings: DataSettings) -> None:
    """Refuse settings for datasets on the Hub if no source is one."""
    if not all(Path(name).exists() for name in (*paths_of(settings.train), *paths_of(settings.eval))):
        return
    for name in ("subset", "revision"):
        if getattr(settings, name) is not None:
            raise ConfigError(
                f"data.{name} has no effect, because no source is a dataset on the Hub; remove it",
                code="no_effect",
                key=f"data.{name}",
            )


def _check_label_settings(settings: DataSettings) -> None:
    """Refuse settings for labelling projects if no source is one."""
    paths = map(Path, (*paths_of(settings.train), *paths_of(settings.eval)))
    if any(path.is_file() and is_database(path) for path in paths):
        return
    for name in OF_LABELS:
        if getattr(settings, name) != getattr(DataSettings, name):
            raise ConfigError(
                f"data.{name} has no effect, because no source is a labelling project (label.db); remove it",
                code="no_effect",
                key=f"data.{name}",
            )


READERS: dict[str, Callable[[Path, ReadLimits], Iterator[Row]]] = {
    **{f"{ending}{packed}": reader for ending, reader in TEXT_READERS.items() for packed in ("", ".gz", ".zst")},
    ".parquet": read_parquet,
    ".arrow": read_arrow,
}
"""End of a file name → the function that reads such files."""
