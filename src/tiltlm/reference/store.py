"""The reference store: log-probabilities by content, shared by all runs that ask the same weights the same question.

An entry belongs to (definition, weights, numeric path, context, response) and to nothing else: another β, learning
rate, objective, seed, batch size or order finds it, anything that moves the number does not. Files are immutable and
written beside the folder's other files, never into them, so any number of processes read and write at once.
"""

import hashlib
import logging
import os
import time
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from tiltlm.core.errors import ConfigError, RunError
from tiltlm.core.example import TokenIds
from tiltlm.reference.shard import DamagedError, Entry, Shard, TokenLogps, context_numbers, sequence_key, write_shard

log = logging.getLogger(__name__)

DEFINITION = "1"
"""Moves when the meaning of a stored number does: what is summed, softmaxed or counted."""


def default_folder() -> Path:
    """`$TILTLM_STORE`, or the folder `tiltlm/reference` of the user's cache."""
    if folder := os.environ.get("TILTLM_STORE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tiltlm" / "reference"


class ReferenceStore:
    """Log-probabilities under one set of weights on one numeric path."""

    def __init__(self, folder: Path | None, weights: str, numeric_path: str) -> None:
        """Open a store, or begin one.

        Args:
            folder: Holds the entries of any number of weights; None: this process keeps them in memory.
            weights: Digest of the reference's weights.
            numeric_path: What else moves the number: precision, device, versions.

        Raises:
            ConfigError: the folder cannot be made.
        """
        self._metadata = {"definition": DEFINITION, "weights": weights, "numeric_path": numeric_path}
        scope = hashlib.blake2b("|".join(self._metadata.values()).encode(), digest_size=16).hexdigest()
        self.folder = None if folder is None else folder / scope
        self._shards: dict[str, Shard] = {}
        self._skipped: set[str] = set()
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(
                    f"reference store {folder}: {error.strerror}. Name another folder (--store), or set"
                    " reference.cache=false."
                ) from error
        self.refresh()

    def __len__(self) -> int:
        """Rows in all files; a sequence that two processes computed at once counts twice."""
        return sum(len(shard) for shard in self._shards.values())

    def refresh(self) -> None:
        """Take in what other processes have written since."""
        if self.folder is None:
            return
        for path in sorted(self.folder.glob("*.arrow")):
            if path.name in self._shards or path.name in self._skipped:
                continue
            try:
                self._shards[path.name] = Shard(pa.memory_map(str(path)), self._metadata)
            except (DamagedError, OSError) as error:
                self._skip(path.name, error)

    def _skip(self, name: str, error: Exception) -> None:
        self._shards.pop(name, None)
        self._skipped.add(name)
        log.warning(
            "reference store: %s is damaged (%s); it is skipped and what it held is computed again",
            name if self.folder is None else self.folder / name,
            error,
        )

    def get(self, sequences: Sequence[tuple[TokenIds, TokenIds]]) -> list[TokenLogps | None]:
        """Log-probability of every response token of each (context, response), in nats; None where not known."""
        keys = [sequence_key(context, response) for context, response in sequences]
        contexts = context_numbers(keys)
        found: list[TokenLogps | None] = [None] * len(keys)
        for name, shard in list(self._shards.items()):
            low, high = (np.searchsorted(shard.contexts, contexts, side) for side in ("left", "right"))
            try:
                for i in np.flatnonzero(high > low).tolist():
                    if found[i] is None:
                        found[i] = shard.find(keys[i], int(low[i]), int(high[i]))
            except DamagedError as error:
                self._skip(name, error)
        return found

    def put(self, entries: Iterable[Entry]) -> None:
        """Keep entries: on return they are on the disk, whole, or not at all.

        Raises:
            RunError: the file cannot be written.
        """
        data = write_shard(entries, self._metadata)
        name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.arrow"
        source: pa.NativeFile | pa.Buffer = data
        if self.folder is not None:
            path = self.folder / name
            try:
                _write_whole(path, data)
            except OSError as error:
                raise RunError(
                    f"reference store: cannot write {path}: {error.strerror}. Make room, name another folder"
                    " (--store), or set reference.cache=false."
                ) from error
            source = pa.memory_map(str(path))
        self._shards[name] = Shard(source, self._metadata)


def _write_whole(path: Path, data: pa.Buffer) -> None:
    """Write under a temporary name, make it durable, rename: a reader sees all of a file or none of it."""
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
