"""Mix sources: choose the rows of each source that an epoch has, and how often.

All rows are read and tokenised; then rows are chosen by their place in the table of examples, which costs no memory for
the examples themselves. A hash of the content decides, so the choice does not depend on paths and the order of rows.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tiltlm.core.example import Example
from tiltlm.core.notes import Note
from tiltlm.data.cache.dataset_cache import CachedData
from tiltlm.data.cache.fingerprints import example_digest
from tiltlm.data.cache.lazy import Selection
from tiltlm.data.data_settings import DataSettings, SourceSettings, sources_of


@dataclass(frozen=True)
class Mixture:
    """The examples of a run after its sources were mixed."""

    train: Sequence[Example]
    held_out: Sequence[Example]
    fingerprint: str
    """Fingerprint of the examples of both parts, in order."""
    sources: dict[str, int]
    """Sources of the training examples, with their numbers of examples."""
    notes: tuple[Note, ...] = ()


def mix(data: CachedData, settings: DataSettings) -> Mixture:
    """Return the examples that an epoch has.

    The training examples of a source of weight w are repeated ⌊w⌋ times, and a share w − ⌊w⌋ of them once more. Rows
    above the cap of a source are counted as left out in the account of the data.

    Args:
        data: All examples; those of each source follow each other.
        settings: The sources of the training data, and whether the held-out data is separate. That is never mixed.
    """
    entries = sources_of(settings.train)
    if all(entry.is_whole for entry in entries):
        return Mixture(data.train, data.held_out, data.fingerprint, dict(data.facts.sources[0]))
    rows: tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]] = ([], [])
    of_train, of_held_out = data.facts.entries[0], data.facts.entries[1] if settings.eval is None else ()
    notes = []
    for k, entry in enumerate(entries):
        trained, held_out = (_rows_of(counts, k) for counts in (of_train, of_held_out))
        hashes = [_hashes(table, own) for table, own in ((data.train, trained), (data.held_out, held_out))]
        if entry.cap is not None and len(trained) + len(held_out) > entry.cap:
            limit = np.sort(np.concatenate(hashes))[entry.cap - 1]
            _leave_out(data, trained[hashes[0] > limit], held_out[hashes[1] > limit], entry)
            trained, held_out = trained[hashes[0] <= limit], held_out[hashes[1] <= limit]
            hashes[0] = hashes[0][hashes[0] <= limit]
        chosen = _repeated(trained, hashes[0], entry.weight)
        rows[0].append(chosen)
        rows[1].append(held_out)
        text = f"{entry.path}: {len(trained):,} training rows, {len(chosen):,} in an epoch; {len(held_out):,} held out"
        notes.append(Note(text, "mixture"))
    chosen, kept = (np.concatenate(parts) for parts in rows)
    train = Selection(data.train, chosen.tolist())
    held = data.held_out if settings.eval is not None else Selection(data.held_out, kept.tolist())
    facts = b"".join([data.fingerprint.encode(), chosen.tobytes(), b"|", kept.tobytes()])
    sources = Counter(example.source for example in train)
    return Mixture(train, held, hashlib.sha256(facts).hexdigest(), dict(sorted(sources.items())), tuple(notes))


def _rows_of(counts: Sequence[int], entry: int) -> NDArray[np.int64]:
    """Return the places of the examples of an entry in their table."""
    start = sum(counts[:entry])
    return np.arange(start, start + (counts[entry] if entry < len(counts) else 0))


def _hashes(table: Sequence[Example], rows: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return a hash of the content of each row. Equal rows are told apart by their number among them."""
    seen: Counter[bytes] = Counter()
    found = np.empty(len(rows), np.uint64)
    for i, row in enumerate(rows.tolist()):
        digest = example_digest(table[row])
        number = seen[digest]
        seen[digest] += 1
        mixed = hashlib.blake2b(digest + number.to_bytes(8, "big"), digest_size=8).digest()
        found[i] = int.from_bytes(mixed, "big")
    return found


def _repeated(rows: NDArray[np.int64], hashes: NDArray[np.uint64], weight: float) -> NDArray[np.int64]:
    """Return each row ⌊weight⌋ times, and the rows with the smallest hashes once more, up to the rest of the weight."""
    times = np.full(len(rows), int(weight))
    times[np.argsort(hashes, kind="stable")[: round((weight - int(weight)) * len(rows))]] += 1
    return np.repeat(rows, times)


def _leave_out(
    data: CachedData, trained: NDArray[np.int64], held_out: NDArray[np.int64], entry: SourceSettings
) -> None:
    """Count rows above the cap of their source."""
    detail = f"cap {entry.cap:,} of {entry.path}"
    for table, rows, is_held_out in ((data.train, trained, False), (data.held_out, held_out, True)):
        for row in rows.tolist():
            data.facts.accounting.leave_out(table[row], "above_cap", detail, held_out=is_held_out)
