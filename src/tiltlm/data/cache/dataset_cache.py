"""Tokenised data on the disk: what rows became, kept by content, so that a second run opens it and tokenises nothing.

An entry is a folder named by a digest of all that decides what rows become: the sources' bytes, the tokenizer, the chat
template, the settings and the objective's needs. It is written under another name and renamed when it is whole, and
checked when it is opened.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
from filelock import FileLock, Timeout

from tiltlm.core.errors import ConfigError, DataError, RunError
from tiltlm.core.needs import Need, Shape
from tiltlm.data.cache.fingerprints import fingerprint
from tiltlm.data.cache.table import ExampleTable, table_writer
from tiltlm.data.data_settings import DataSettings
from tiltlm.data.files.sources import Rows
from tiltlm.data.findings import Findings, Settled
from tiltlm.data.loader import RowBlock
from tiltlm.data.tokens.encoder import Encoder
from tiltlm.data.tokens.length_limit import longest_allowed

log = logging.getLogger(__name__)

DEFINITION = "1"
"""Moves when the same rows become other examples, or the files have another form."""

NOT_IN_KEY = frozenset(
    {
        "train", "eval", "revision", "chat_template", "max_length", "max_bad", "on_bad", "cache", "cache_limit",
        "processes",
    }
)  # fmt: skip
"""Settings that change no example, or whose effect is in the key already: the content behind a name, a template."""

_ENTRY = re.compile(r"[0-9a-f]{32}(\.tmp)?")
"""Names of entries, and of those that are being written."""

TABLES = ("train.arrow", "held_out.arrow")
ABOUT = "about.json"


@dataclass(frozen=True)
class CachedData:
    """What the rows of a data set became."""

    train: ExampleTable
    held_out: ExampleTable
    columns: dict[str, str]
    """Every column of the rows, and where it first appears."""
    findings: Settled
    fingerprint: str


def default_cache_folder() -> Path:
    """`$TILTLM_CACHE`, or the folder `tiltlm/tokens` of the user's cache."""
    if folder := os.environ.get("TILTLM_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tiltlm" / "tokens"


def place_of(
    settings: DataSettings,
    encoder: Encoder,
    shape: Shape,
    needs: frozenset[Need],
    needs_reference: bool,
    parts: Iterable[Rows],
) -> Path | None:
    """The folder of what these rows become, named by a digest of all that decides it.

    None where nothing is to be kept, or where a tokenizer or a data set has no content that could be digested.
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
        "end": encoder.end_token_id,
        "template": _template_facts(encoder),
        "max_length": longest_allowed(settings.max_length, encoder.window),
        "settings": {name: value for name, value in vars(settings).items() if name not in NOT_IN_KEY},
        "objective": [shape, sorted(needs), needs_reference],
    }
    key = hashlib.blake2b(json.dumps(facts, sort_keys=True, default=dict).encode(), digest_size=16).hexdigest()
    return (default_cache_folder() if settings.cache is True else Path(settings.cache).expanduser()) / key


def _tokenizer_digest(encoder: Encoder) -> str | None:
    """Of all that a tokenizer of the tokenizers library is; others cannot be read like this."""
    backend = getattr(encoder.tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    encoder.tokens(["a"])  # a call sets padding and cutting aside, which are part of what is digested
    facts = [type(encoder.tokenizer).__name__, backend.to_str(), sorted(encoder.tokenizer.special_tokens_map.items())]
    return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()


def _template_facts(encoder: Encoder) -> list[str]:
    try:
        template = encoder.template
    except DataError as error:  # no matter for text; conversations will raise it again
        return [str(error)]
    if template is None:
        return []
    return [template.digest, date.today().isoformat() if template.writes_date else ""]


def open_cache(folder: Path) -> CachedData | None:
    """What is kept in this folder; None where there is nothing, or nothing whole, which is said and removed."""
    if not folder.is_dir():
        return None
    try:
        kept = _open(folder)
        with contextlib.suppress(OSError):  # another user's
            (folder / ABOUT).touch()  # it was used now: `make_room` goes by that
        return kept
    except (OSError, ValueError, LookupError, TypeError, pa.ArrowException) as error:
        log.warning(
            "tokenised data: %s is damaged (%s); it is removed, and its rows are tokenised again",
            folder,
            error,
            extra={"event": "cache_damaged", "folder": folder},
        )
        shutil.rmtree(folder, ignore_errors=True)
        return None


def write_cache(
    folder: Path | None, blocks: Callable[[], Iterable[RowBlock]], columns: Mapping[str, str], limit: int | None = None
) -> CachedData:
    """Write what the rows become, and open it.

    Args:
        folder: its place; another process that has been quicker is waited for. None: a place for this process alone,
            which the system takes back when nobody reads it any more.
        blocks: begins to load them.
        columns: of the rows, for who opens it next.
        limit: bytes that all entries may have together afterwards, see `evict_entries`.

    Raises:
        ConfigError: the folder cannot be made.
        RunError: it cannot be written.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="tiltlm-") as place:
            _write(Path(place), blocks(), columns)
            return _open(Path(place))  # what is mapped outlives its name
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = _locked(folder)
    except OSError as error:
        raise ConfigError(
            f"tokenised data: {folder.parent}: {error.strerror}. Name another folder (data.cache=FOLDER), or keep "
            "nothing: data.cache=false",
            code="not_writable",
            key="data.cache",
        ) from error
    try:
        if (kept := open_cache(folder)) is not None:
            return kept
        unfinished = folder.with_suffix(".tmp")
        shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
        unfinished.mkdir()
        try:
            _write(unfinished, blocks(), columns)
            unfinished.rename(folder)  # no fsync: should the machine stop here, the checksums will tell
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        kept = _open(folder)
    finally:
        lock.release()
    if limit is not None:
        evict_entries(folder, limit)
    return kept


def evict_entries(used: Path, limit: int) -> None:
    """Remove the entries beside `used` that were not used for longest, until all have at most `limit` bytes together.

    What another process has open stays readable for it. What killed processes left unfinished is removed too.
    """
    entries = []
    for folder in used.parent.iterdir():
        with contextlib.suppress(OSError):  # removed meanwhile, or not of our making
            if _ENTRY.fullmatch(folder.name) and folder.is_dir():
                seconds = 0.0 if folder.suffix else (folder / ABOUT).stat().st_mtime
                entries.append((seconds, sum(file.stat().st_size for file in folder.iterdir()), folder))
    left = sum(size for _, size, _ in entries)
    removed = 0
    for _, size, folder in sorted(entries):
        if folder == used or (left <= limit and not folder.suffix):
            continue
        try:
            with FileLock(folder.with_suffix(".lock"), blocking=False):
                unfinished = folder.with_suffix(".tmp")
                if folder != unfinished:
                    folder.rename(unfinished)  # nobody shall find half an entry
                shutil.rmtree(unfinished)
        except (OSError, Timeout):  # being written, another user's, or another process is quicker
            continue
        left, removed = left - size, removed + size
    if removed:
        log.info(
            "tokenised data: removed %.3g GB from %s that were not used for longest, %.3g GB are left",
            removed / 1e9, used.parent, left / 1e9,
            extra={"event": "cache_shrunk", "folder": used.parent, "removed": removed, "left": left},
        )  # fmt: skip
    if left > limit:
        log.warning(
            "tokenised data: %s has %.3g GB that are in use, more than data.cache_limit (%.3g GB)",
            used.parent, left / 1e9, limit / 1e9,
            extra={"event": "cache_over_limit", "folder": used.parent, "left": left, "limit": limit},
        )  # fmt: skip


def _locked(folder: Path) -> FileLock:
    """A lock that is held: alone among those who tokenise the same data. It goes with the process, whatever ends it."""
    lock = FileLock(folder.with_suffix(".lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        log.info("tokenised data: another process is writing %s; waiting for it", folder)
        lock.acquire()
    return lock


def _write(folder: Path, blocks: Iterable[RowBlock], columns: Mapping[str, str]) -> None:
    findings = Findings()
    try:
        with table_writer(folder / TABLES[0]) as train, table_writer(folder / TABLES[1]) as held_out:
            for block in blocks:
                train.write_batch(block.train)
                held_out.write_batch(block.held_out)
                findings.merge(block.findings)
        about = {
            "fingerprint": fingerprint(*(ExampleTable(folder / name) for name in TABLES)),
            "columns": columns,
            "findings": findings.settle().to_plain(),
            "checksums": {name: _checksum(folder / name) for name in TABLES},
        }
        (folder / ABOUT).write_text(json.dumps(about))
    except OSError as error:
        raise RunError(
            f"tokenised data: cannot write {folder}: {error.strerror or error}. Make room, or name another folder: "
            "data.cache=FOLDER",
            code="not_writable",
            key="data.cache",
        ) from error


def _open(folder: Path) -> CachedData:
    about = json.loads((folder / ABOUT).read_bytes())
    for name in TABLES:
        if _checksum(folder / name) != about["checksums"][name]:
            raise ValueError(f"the checksum of {name} does not fit")
    train, held_out = (ExampleTable(folder / name) for name in TABLES)
    return CachedData(train, held_out, about["columns"], Settled.from_plain(about["findings"]), about["fingerprint"])


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            checksum = zlib.crc32(block, checksum)
    return checksum
