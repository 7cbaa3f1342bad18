"""Cache tokenised data on disk: a second run over the same rows opens it and tokenises nothing.

An entry is a folder named by a digest of everything that decides the examples: the bytes of the sources, the tokenizer,
the chat template, the settings and the needs of the objective. It is written under a temporary name, renamed when it is
complete, and checked when it is opened.
"""

import contextlib
import hashlib
import json
import logging
import re
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
from filelock import FileLock, Timeout

from tiltlm.core.errors import ConfigError, DataError, RunError
from tiltlm.core.needs import Need, Shape, Use
from tiltlm.data.cache.fingerprints import fingerprint
from tiltlm.data.cache.table import ExampleTable, table_writer
from tiltlm.data.data_settings import DataSettings
from tiltlm.data.files.sources import Rows
from tiltlm.data.findings import DataFacts, Findings
from tiltlm.data.loader import RowBlock
from tiltlm.data.tokens.encoder import Encoder
from tiltlm.data.tokens.length_limit import longest_allowed
from tiltlm.storage.cache import CacheEntry, cache_folder, evict, mark_used, try_lock
from tiltlm.storage.files import atomic_folder
from tiltlm.storage.scratch import remove_leftovers, scratch_folder

log = logging.getLogger(__name__)

DEFINITION = "5"
"""Change this when the same rows become other examples, or the files have another form."""

NOT_IN_KEY = frozenset(
    {
        "train", "eval", "revision", "chat_template", "max_length", "max_bad", "on_bad", "cache", "cache_limit",
        "processes",
    }
)  # fmt: skip
"""Settings that change no example, or whose effect is in the key already (a template's text, the content of a file)."""

_ENTRY = re.compile(r"[0-9a-f]{32}|\.[0-9a-f]{32}\.tmp")
"""Names of entries, and temporary names of entries that are being written (`atomic_folder`)."""

TABLES = ("train.arrow", "held_out.arrow")
ABOUT = "about.json"
"""Everything about an entry that is not in its tables, as text, and its checksum. Its modification time is the time of
the last use."""


@dataclass(frozen=True)
class CachedData:
    """The examples of a data set, and facts about its rows."""

    train: ExampleTable
    held_out: ExampleTable
    columns: dict[str, str]
    """Each column of the rows → location of the first row that has it."""
    facts: DataFacts
    fingerprint: str


def entry_folder(
    settings: DataSettings,
    encoder: Encoder,
    shape: Shape,
    needs: frozenset[Need],
    uses: frozenset[Use] | None,
    needs_reference: bool,
    parts: Iterable[Rows],
) -> Path | None:
    """Return the folder of the cache entry for these rows, or None if they cannot be cached.

    They cannot with `cache=False`, and if the content of the tokenizer or of a source cannot be digested.
    """
    if settings.cache is False:
        return None
    contents = [rows.content() for rows in parts]
    tokenizer = _tokenizer_digest(encoder)
    if tokenizer is None or None in contents:
        return None
    facts = {
        "definition": DEFINITION,
        "versions": [version(package) for package in ("tokenizers", "transformers")],
        "contents": contents,
        "tokenizer": tokenizer,
        "end": [encoder.end_token_id, encoder.num_embeddings, encoder.reads_whole],
        "template": _template_facts(encoder),
        "max_length": longest_allowed(settings.max_length, encoder.window),
        "settings": {name: value for name, value in vars(settings).items() if name not in NOT_IN_KEY},
        "objective": [shape, sorted(needs), None if uses is None else sorted(uses), needs_reference],
    }
    key = hashlib.blake2b(json.dumps(facts, sort_keys=True, default=dict).encode(), digest_size=16).hexdigest()
    parent = cache_folder("tokens", "TILTLM_CACHE") if settings.cache is True else Path(settings.cache).expanduser()
    return parent / key


def _tokenizer_digest(encoder: Encoder) -> str | None:
    """Return a digest of everything in the tokenizer, or None if it is not from the tokenizers library."""
    backend = getattr(encoder.tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    encoder.tokens(["a"])  # a call resets padding and truncation, which are in `to_str`
    facts = [type(encoder.tokenizer).__name__, backend.to_str(), sorted(encoder.tokenizer.special_tokens_map.items())]
    return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()


def _template_facts(encoder: Encoder) -> list[str]:
    try:
        template = encoder.template
    except DataError as error:  # plain text needs no template; a conversation raises the error again
        return [str(error)]
    if template is None:
        return []
    return [template.digest, date.today().isoformat() if template.writes_date else ""]


def open_cache(folder: Path) -> CachedData | None:
    """Open a cache entry. Return None if there is none; remove it, with a warning, if it is damaged."""
    if not folder.is_dir():
        return None
    try:
        data = _open(folder)
    except (OSError, ValueError, LookupError, TypeError, pa.ArrowException) as error:
        log.warning(
            "tokenised data: %s is damaged (%s). It is removed, and its rows are tokenised again",
            folder,
            error,
            extra={"event": "cache_damaged", "folder": folder},
        )
        shutil.rmtree(folder, ignore_errors=True)
        return None
    mark_used(folder / ABOUT)
    return data


def write_cache(
    folder: Path | None, blocks: Callable[[], Iterable[RowBlock]], columns: Mapping[str, str], limit: int | None = None
) -> CachedData:
    """Write a cache entry and open it.

    If another process is writing the same entry, wait for it and open what it wrote.

    Args:
        folder: The entry's folder. None: a temporary folder, whose files the system deletes when they are closed.
        blocks: Starts to load the rows.
        columns: `CachedData.columns`.
        limit: Bytes that all entries together may have afterwards, see `evict_entries`. None: no limit.

    Raises:
        ConfigError: The cache folder cannot be made.
        RunError: The entry cannot be written.
    """
    if folder is None:
        with scratch_folder() as temporary:
            with _report_failed_write(temporary, "set TMPDIR to a folder with space"):
                _write(temporary, blocks(), columns)
            return _open(temporary)  # files that are memory-mapped stay readable after they are deleted
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = _wait_for_lock(folder)
    except OSError as error:
        raise ConfigError(
            f"tokenised data: the cache folder {folder.parent} cannot be used: {error.strerror}. Name another folder "
            "(data.cache=FOLDER), or use no cache: data.cache=false",
            code="not_writable",
            key="data.cache",
        ) from error
    try:
        if (data := open_cache(folder)) is not None:
            return data
        _remove_unfinished(folder.parent)
        remove_leftovers()
        # No fsync: after a crash of the machine, the checksums show whether the entry is complete.
        with (
            _report_failed_write(folder, "name another folder: data.cache=FOLDER"),
            atomic_folder(folder) as unfinished,
        ):
            _write(unfinished, blocks(), columns)
        data = _open(folder)
    finally:
        lock.release()
    if limit is not None:
        evict_entries(folder, limit)
    return data


def evict_entries(used: Path, limit: int) -> None:
    """Remove the least recently used entries beside `used` until all have at most `limit` bytes together.

    Files that another process has open stay readable for it. Unfinished entries of killed processes are removed first.
    """
    _remove_unfinished(used.parent)
    entries = [entry for folder in used.parent.iterdir() if (entry := _entry(folder)) is not None]
    removed, left = evict(entries, limit, {used}, _remove)
    if removed:
        log.info(
            "tokenised data: removed %.3g GB of least recently used entries from %s; %.3g GB are left",
            removed / 1e9, used.parent, left / 1e9,
            extra={"event": "cache_shrunk", "folder": used.parent, "removed": removed, "left": left},
        )  # fmt: skip
    if left > limit:
        log.warning(
            "tokenised data: the entries in use in %s have %.3g GB, more than data.cache_limit (%.3g GB)",
            used.parent, left / 1e9, limit / 1e9,
            extra={"event": "cache_over_limit", "folder": used.parent, "left": left, "limit": limit},
        )  # fmt: skip


def _remove_unfinished(parent: Path) -> None:
    """Remove the entries that killed processes left unfinished."""
    for unfinished in parent.glob(".*.tmp"):
        if _ENTRY.fullmatch(unfinished.name):
            _remove(unfinished)


def _entry(folder: Path) -> CacheEntry | None:
    """Return the size and last use of an entry, complete or being written; None for any other file or folder."""
    with contextlib.suppress(OSError):  # removed meanwhile, or another user's
        if _ENTRY.fullmatch(folder.name) and folder.is_dir():
            last_used = 0.0 if folder.suffix else (folder / ABOUT).stat().st_mtime
            return CacheEntry(last_used, sum(file.stat().st_size for file in folder.iterdir()), folder)
    return None


def _remove(folder: Path) -> bool:
    """Remove an entry unless a process is writing it or it is another user's; return whether it is gone."""
    key = folder.name.removeprefix(".").removesuffix(".tmp")
    unfinished = folder.with_name(f".{key}.tmp")
    with contextlib.suppress(OSError), try_lock(_lock_of(folder.with_name(key))) as is_free:
        if is_free:
            if folder != unfinished:
                folder.rename(unfinished)  # so that no process opens half of an entry
            shutil.rmtree(unfinished)
            return True
    return False


def _lock_of(folder: Path) -> Path:
    return folder.with_suffix(".lock")


def _wait_for_lock(folder: Path) -> FileLock:
    """Take the lock for writing an entry. The system releases it when the process ends, however it ends."""
    lock = FileLock(_lock_of(folder))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        log.info("tokenised data: another process is writing %s; waiting for it", folder)
        lock.acquire()
    return lock


@contextlib.contextmanager
def _report_failed_write(folder: Path, way_out: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(
            f"tokenised data: cannot write {folder}: {error.strerror or error}. Free disk space, or {way_out}",
            code="not_writable",
            key="data.cache",
        ) from error


def _write(folder: Path, blocks: Iterable[RowBlock], columns: Mapping[str, str]) -> None:
    findings = Findings()
    with table_writer(folder / TABLES[0]) as train, table_writer(folder / TABLES[1]) as held_out:
        for block in blocks:
            train.write_batch(block.train)
            held_out.write_batch(block.held_out)
            findings.merge(block.findings)
    about = {
        "fingerprint": fingerprint(*(ExampleTable(folder / name) for name in TABLES)),
        "columns": columns,
        "facts": findings.to_facts().to_plain(),
        "checksums": {name: _checksum(folder / name) for name in TABLES},
    }
    text = json.dumps(about)
    (folder / ABOUT).write_text(json.dumps({"checksum": zlib.crc32(text.encode()), "about": text}))


def _open(folder: Path) -> CachedData:
    sealed = json.loads((folder / ABOUT).read_bytes())
    if zlib.crc32(sealed["about"].encode()) != sealed["checksum"]:
        raise ValueError(f"the checksum of {ABOUT} is wrong")
    about = json.loads(sealed["about"])
    for name in TABLES:
        if _checksum(folder / name) != about["checksums"][name]:
            raise ValueError(f"the checksum of {name} is wrong")
    train, held_out = (ExampleTable(folder / name) for name in TABLES)
    return CachedData(train, held_out, about["columns"], DataFacts.from_plain(about["facts"]), about["fingerprint"])


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            checksum = zlib.crc32(block, checksum)
    return checksum
