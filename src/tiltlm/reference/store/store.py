"""The reference store: log-probabilities by content, shared by all runs with the same reference weights.

The key of an entry is (definition, weights, numeric path, context, response). A run with another β, learning rate,
objective, seed, batch size or order of the data finds the same entry; whatever changes the number changes the key.
Files are immutable: new rows go into new files, so any number of processes can read and write at once.
"""

import hashlib
import logging
import mmap
import time
import uuid
import zlib
from collections.abc import Container, Iterable, Sequence, Set
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa

from tiltlm.core.errors import ConfigError, RunError
from tiltlm.core.example import TokenIds
from tiltlm.reference.store.index import Index
from tiltlm.reference.store.maintenance import LOCK, make_room, to_merge
from tiltlm.reference.store.shard import (
    LOGP,
    DamagedError,
    Entry,
    Shard,
    StoredRow,
    TokenLogps,
    context_digest,
    rows_of,
    token_bytes,
    write_shard,
)
from tiltlm.storage.cache import entries_of, mark_used, try_lock
from tiltlm.storage.files import atomic_file

log = logging.getLogger(__name__)

DEFINITION = "1"
"""Version of the meaning of a stored number. A new definition never reads old numbers."""


class ReferenceStore:
    """The stored log-probabilities of one set of weights on one numeric path."""

    def __init__(self, folder: Path | None, weights: str, numeric_path: str, limit: int | None = None) -> None:
        """Open a store, or create it.

        Args:
            folder: The folder with the entries of all weights; None means that entries stay in this process's memory.
            weights: Digest of the reference's weights.
            numeric_path: What else changes the number: precision, device, versions.
            limit: Bytes that `tidy` leaves in `folder`, for all weights together; None means no limit.

        Raises:
            ConfigError: the folder cannot be created.
        """
        self._metadata = {"definition": DEFINITION, "weights": weights, "numeric_path": numeric_path}
        scope = hashlib.blake2b("|".join(self._metadata.values()).encode(), digest_size=16).hexdigest()
        self.folder = None if folder is None else folder / scope
        self._limit = limit
        self._shards: dict[str, Shard] = {}
        self._ignored: set[str] = set()  # damaged, or merged already and not removable by this user
        self._warned: set[str] = set()
        self._used: set[str] = set()
        self._index: Index | None = None
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(
                    f"reference store {folder}: {error.strerror}. Choose another folder (--store), or set"
                    " reference.cache=false.",
                    code="not_writable",
                    key="reference.store",
                ) from error
        self.refresh()

    def __len__(self) -> int:
        """Return the rows of all files. A sequence that two processes computed counts twice until files are merged."""
        return sum(len(shard) for shard in self._shards.values())

    def refresh(self) -> None:
        """Read the files that other processes have written. Files that they have removed stay readable here."""
        if self.folder is None:
            return
        removed: set[str] = set()

        def known() -> Set[str]:
            return self._shards.keys() | self._ignored | removed

        while new := [path for path in sorted(self.folder.glob("*.arrow")) if path.name not in known()]:
            for path in new:
                try:
                    with path.open("rb") as file:
                        self._add(Shard(path.name, _mapped(file), self._metadata))
                except FileNotFoundError:  # removed, or merged into a file that the next round finds
                    removed.add(path.name)
                except (DamagedError, OSError, ValueError) as error:
                    self._ignored.add(path.name)
                    self._warn(path.name, error, "it is")

    def get(self, sequences: Sequence[tuple[TokenIds, TokenIds]]) -> list[TokenLogps | None]:
        """Return the log-probability of every response token of each (context, response), in nats; None if missing."""
        if self._index is None:
            self._index = Index(tuple(self._shards.values()))
        contexts: dict[bytes, int] = {}
        context_of = [contexts.setdefault(token_bytes(context), len(contexts)) for context, _ in sequences]
        digests = [context_digest(context) for context in contexts]
        places = self._index.find(digests)
        seeds = list(map(zlib.crc32, digests))
        found: list[TokenLogps | None] = []
        used: set[str] = set()
        for context, (_, response) in zip(context_of, sequences, strict=True):
            logps = None
            for shard, low, high in places[context]:
                try:
                    logps = shard.find(seeds[context], token_bytes(response), low, high)
                except DamagedError as error:
                    self._warn(shard.name, error, "that row is", rows=1)
                if logps is not None:
                    used.add(shard.name)
                    break
            found.append(None if logps is None else np.frombuffer(logps, LOGP))
        self._use(used)
        return found

    def put(self, entries: Iterable[Entry]) -> None:
        """Store entries. On return they are on the disk.

        Raises:
            RunError: the file cannot be written; nothing is stored then.
        """
        rows = list(rows_of(entries))
        if not rows:
            return
        self._write(rows)
        if self.folder is not None and to_merge(_sizes(self.folder)):
            self._merge(self.folder)

    def tidy(self) -> None:
        """Remove the least recently used files until the store's folder is under its limit.

        Files that this object has read or written stay: call it after all that a run needs has been looked up.
        """
        if self.folder is None or self._limit is None:
            return
        with try_lock(self.folder.parent / LOCK) as is_ours:
            if is_ours:
                make_room(self.folder.parent, self._limit, {self.folder / name for name in self._used})

    def _write(self, rows: Iterable[StoredRow]) -> None:
        """Write rows as a new shard."""
        name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.arrow"
        if self.folder is None:
            sink = pa.BufferOutputStream()
            write_shard(rows, self._metadata, sink)
            self._add(Shard(name, sink.getvalue().to_pybytes(), self._metadata))
            return
        path = self.folder / name
        try:
            with atomic_file(path) as file:
                write_shard(rows, self._metadata, file)
                data = _mapped(file)  # before it has its name: from then on another process may merge and remove it
        except OSError as error:
            raise RunError(
                f"reference store: cannot write {path}: {error.strerror}. Free disk space, choose another folder"
                " (--store), or set reference.cache=false.",
                code="not_writable",
                key="reference.store",
            ) from error
        self._add(Shard(name, data, self._metadata))
        self._used.add(name)

    def _merge(self, folder: Path) -> None:
        """Merge many files into few. If the disk is full, they stay as they are."""
        with try_lock(folder / LOCK) as is_ours:
            self.refresh()
            while is_ours and (names := to_merge(_sizes(folder, self._shards.keys()))):
                rows = [row for name in names for row in self._sound_rows(self._shards[name])]
                try:
                    if rows:
                        self._write(rows)
                except RunError as error:
                    log.warning(
                        "%s The files of the store were not merged.",
                        error,
                        extra={"event": "merge_failed", "code": error.code},
                    )
                    return
                for name in names:  # only now: the merged file is on the disk
                    del self._shards[name]
                    try:
                        (folder / name).unlink(missing_ok=True)
                    except OSError:  # another user's
                        self._ignored.add(name)
                self._index = None

    def _sound_rows(self, shard: Shard) -> list[StoredRow]:
        """Return the rows of a shard whose checksum is right, and warn of the others."""
        rows = list(shard.sound_rows())
        if num_damaged := len(shard) - len(rows):
            error = DamagedError(f"{num_damaged} rows with a wrong checksum", code="wrong_checksum")
            self._warn(shard.name, error, "they are", rows=num_damaged)
        return rows

    def _add(self, shard: Shard) -> None:
        """Add a shard; the index is built again at the next look-up."""
        self._shards[shard.name] = shard
        self._index = None

    def _use(self, names: Set[str]) -> None:
        """Mark files as used by this run, once each."""
        if self.folder is not None:
            for name in names - self._used:
                mark_used(self.folder / name)
        self._used |= names

    def _warn(self, name: str, error: Exception, subject: str, rows: int | None = None) -> None:
        """Warn of a damaged file, once.

        Args:
            name: Name of the file.
            error: What is wrong with it.
            subject: Subject and verb of the sentence that says what is skipped.
            rows: Number of damaged rows; None means the whole file.
        """
        if name not in self._warned:
            self._warned.add(name)
            where = name if self.folder is None else self.folder / name
            code = error.code if isinstance(error, DamagedError) else "not_readable"
            log.warning(
                "reference store: %s is damaged (%s); %s skipped and computed again",
                where,
                error,
                subject,
                extra={"event": "store_damaged", "file": name, "code": code, "rows": rows},
            )


def _sizes(folder: Path, known: Container[str] | None = None) -> dict[str, int]:
    """Return the bytes of each file that is there now, or only of the `known` ones."""
    names = {entry.path.name: entry.size for entry in entries_of(folder, "*.arrow")}
    return {name: size for name, size in names.items() if known is None or name in known}


def _mapped(file: IO[bytes]) -> mmap.mmap:
    """Map a file into memory. It stays readable after it is renamed or removed."""
    file.flush()
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
