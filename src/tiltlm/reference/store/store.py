"""The reference store: log-probabilities by content, shared by all runs that ask the same weights the same question.

An entry belongs to (definition, weights, numeric path, context, response) and to nothing else: another β, learning
rate, objective, seed, batch size or order finds it, anything that moves the number does not. Files are immutable and
written beside the folder's other files, never into them, so any number of processes read and write at once.
"""

import hashlib
import logging
import mmap
import os
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
from tiltlm.reference.store.maintenance import evict, files, mark_used, to_merge, try_lock, whole_file
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

log = logging.getLogger(__name__)

DEFINITION = "1"
"""Moves when the meaning of a stored number does: what is summed, softmaxed or counted."""


def default_store_folder() -> Path:
    """`$TILTLM_STORE`, or the folder `tiltlm/reference` of the user's cache."""
    if folder := os.environ.get("TILTLM_STORE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tiltlm" / "reference"


class ReferenceStore:
    """Log-probabilities under one set of weights on one numeric path."""

    def __init__(self, folder: Path | None, weights: str, numeric_path: str, limit: int | None = None) -> None:
        """Open a store, or begin one.

        Args:
            folder: Holds the entries of any number of weights; None: this process keeps them in memory.
            weights: Digest of the reference's weights.
            numeric_path: What else moves the number: precision, device, versions.
            limit: Bytes that `tidy` leaves in `folder`, all weights together; None: any number.

        Raises:
            ConfigError: the folder cannot be made.
        """
        self._metadata = {"definition": DEFINITION, "weights": weights, "numeric_path": numeric_path}
        scope = hashlib.blake2b("|".join(self._metadata.values()).encode(), digest_size=16).hexdigest()
        self.folder = None if folder is None else folder / scope
        self._limit = limit
        self._shards: dict[str, Shard] = {}
        self._ignored: set[str] = set()  # damaged, or merged into another and not ours to remove
        self._said: set[str] = set()
        self._used: set[str] = set()
        self._index: Index | None = None
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(
                    f"reference store {folder}: {error.strerror}. Name another folder (--store), or set"
                    " reference.cache=false.",
                    code="not_writable",
                    key="reference.store",
                ) from error
        self.refresh()

    def __len__(self) -> int:
        """Rows in all files; a sequence that two processes computed at once counts twice until files are merged."""
        return sum(len(shard) for shard in self._shards.values())

    def refresh(self) -> None:
        """Take in what other processes have written since. What they have removed since stays readable here."""
        if self.folder is None:
            return
        gone: set[str] = set()

        def known() -> Set[str]:
            return self._shards.keys() | self._ignored | gone

        while new := [path for path in sorted(self.folder.glob("*.arrow")) if path.name not in known()]:
            for path in new:
                try:
                    with path.open("rb") as file:
                        self._add(Shard(path.name, _mapped(file), self._metadata))
                except FileNotFoundError:  # merged into one that the next look finds, or removed
                    gone.add(path.name)
                except (DamagedError, OSError, ValueError) as error:
                    self._ignored.add(path.name)
                    self._say(path.name, error, "it is")

    def get(self, sequences: Sequence[tuple[TokenIds, TokenIds]]) -> list[TokenLogps | None]:
        """Log-probability of every response token of each (context, response), in nats; None where not known."""
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
                    self._say(shard.name, error, "that row is", rows=1)
                if logps is not None:
                    used.add(shard.name)
                    break
            found.append(None if logps is None else np.frombuffer(logps, LOGP))
        self._use(used)
        return found

    def put(self, entries: Iterable[Entry]) -> None:
        """Keep entries: on return they are on the disk, whole, or not at all.

        Raises:
            RunError: the file cannot be written.
        """
        rows = list(rows_of(entries))
        if not rows:
            return
        self._write(rows)
        if self.folder is not None and to_merge(_sizes(self.folder)):
            self._merge(self.folder)

    def tidy(self) -> None:
        """Bring the store's folder under its limit, least recently used files first.

        What was found or written through this object stays, so call it when all that a run needs has been asked for.
        """
        if self.folder is None or self._limit is None:
            return
        with try_lock(self.folder.parent) as is_ours:
            if is_ours:
                evict(self.folder.parent, self._limit, {self.folder / name for name in self._used})

    def _write(self, rows: Iterable[StoredRow]) -> None:
        """Rows as a new shard."""
        name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.arrow"
        if self.folder is None:
            sink = pa.BufferOutputStream()
            write_shard(rows, self._metadata, sink)
            self._add(Shard(name, sink.getvalue().to_pybytes(), self._metadata))
            return
        path = self.folder / name
        try:
            with whole_file(path) as file:
                write_shard(rows, self._metadata, file)
                data = _mapped(file)  # as soon as it has its name, another process may merge it away
        except OSError as error:
            raise RunError(
                f"reference store: cannot write {path}: {error.strerror}. Make room, name another folder"
                " (--store), or set reference.cache=false.",
                code="not_writable",
                key="reference.store",
            ) from error
        self._add(Shard(name, data, self._metadata))
        self._used.add(name)

    def _merge(self, folder: Path) -> None:
        """Make few files of many. Where the disk is full, they stay many."""
        with try_lock(folder) as is_ours:
            self.refresh()
            while is_ours and (names := to_merge(_sizes(folder, self._shards.keys()))):
                rows = [row for name in names for row in self._sound_rows(self._shards[name])]
                try:
                    if rows:
                        self._write(rows)
                except RunError as error:
                    log.warning("%s Files are not merged.", error, extra={"event": "merge_failed", "code": error.code})
                    return
                for name in names:  # only now: what they held is on the disk
                    del self._shards[name]
                    try:
                        (folder / name).unlink(missing_ok=True)
                    except OSError:  # another user's
                        self._ignored.add(name)
                self._index = None

    def _sound_rows(self, shard: Shard) -> list[StoredRow]:
        rows = list(shard.sound_rows())
        if num_damaged := len(shard) - len(rows):
            error = DamagedError(f"{num_damaged} rows with a wrong checksum", code="wrong_checksum")
            self._say(shard.name, error, "they are", rows=num_damaged)
        return rows

    def _add(self, shard: Shard) -> None:
        self._shards[shard.name] = shard
        self._index = None

    def _use(self, names: Set[str]) -> None:
        """Stamp files that this run uses, once."""
        if self.folder is not None:
            for name in names - self._used:
                mark_used(self.folder / name)
        self._used |= names

    def _say(self, name: str, error: Exception, what: str, rows: int | None = None) -> None:
        """Warn of a damaged file, once; `rows` is how many of its rows are damaged, None: all of it."""
        if name not in self._said:
            self._said.add(name)
            where = name if self.folder is None else self.folder / name
            code = error.code if isinstance(error, DamagedError) else "not_readable"
            log.warning(
                "reference store: %s is damaged (%s); %s skipped and computed again",
                where,
                error,
                what,
                extra={"event": "store_damaged", "file": name, "code": code, "rows": rows},
            )


def _sizes(folder: Path, known: Container[str] | None = None) -> dict[str, int]:
    """Bytes of the files that are there now; of those known only, if some are."""
    return {path.name: size for _, size, path in files(folder, "*.arrow") if known is None or path.name in known}


def _mapped(file: IO[bytes]) -> mmap.mmap:
    """What a file holds, read in place whether or not it keeps its name."""
    file.flush()
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
