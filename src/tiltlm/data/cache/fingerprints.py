"""Functions of content alone: the fingerprint of a data set, the side of a prompt, rows that contradict each other."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tiltlm.core.example import Example


def is_held_out(prompt: str, fraction: float, seed: int) -> bool:
    """Whether a prompt is held out: decided by its text alone, so that added rows move no other."""
    digest = hashlib.sha256(f"{seed}\0{prompt}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def fingerprint(*parts: Sequence[Example]) -> str:
    """sha256 over tokens and everything known about them, in order; not over ids, sources or partners."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"part {len(part)}".encode())
        for example in part:
            for piece in _pieces(example):
                digest.update(len(piece).to_bytes(8, "big") + piece)
    return digest.hexdigest()


def _pieces(example: Example) -> Iterator[bytes]:
    yield example.prompt_ids.tobytes()
    for response in example.responses:
        yield from response.key
        yield repr((response.ended, response.ref_logps)).encode()
    known = (example.comparisons, example.labels, example.ranks, example.scores, example.weight)
    yield json.dumps(known, default=vars).encode()


def digest(*pieces: bytes) -> bytes:
    """BLAKE2b-128 over these pieces: 16 bytes to know a text or a sequence by, where millions must be compared."""
    return hashlib.blake2b(b"".join(len(p).to_bytes(8, "big") + p for p in pieces), digest_size=16).digest()


def distinct(digests: bytes | bytearray) -> NDArray[np.bytes_]:
    """Those of these digests, one after another, that differ, sorted."""
    return np.unique(np.frombuffer(digests, "S16"))


def comparison_digests(example: Example) -> Iterator[tuple[bytes, bool]]:
    """What each comparison says of two answers to a prompt: a digest of the three, and which answer is preferred."""
    for c in example.comparisons:
        chosen, rejected = (digest(*example.responses[k].key) for k in (c.chosen, c.rejected))
        yield digest(example.prompt_ids.tobytes(), *sorted((chosen, rejected))), chosen < rejected


def prompt_numbers(examples: Iterable[Example]) -> NDArray[np.int64]:
    """For each example the number of its prompt, equal for equal prompts, counted by first appearance."""
    numbers: dict[bytes, int] = {}
    found = (numbers.setdefault(digest(e.prompt_ids.tobytes()), len(numbers)) for e in examples)
    return np.fromiter(found, np.int64)
