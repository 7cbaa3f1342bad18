"""Functions of content alone: the fingerprint of a data set, the side of a prompt, rows that contradict each other."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence

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


def contradictions(examples: Iterable[Example]) -> int:
    """How many (prompt, a, b) are preferred one way in one row and the other way in another."""
    seen: set[tuple[bytes, tuple[bytes, bytes], tuple[bytes, bytes]]] = set()
    for example in examples:
        for c in example.comparisons:
            chosen, rejected = example.responses[c.chosen].key, example.responses[c.rejected].key
            seen.add((example.prompt_ids.tobytes(), chosen, rejected))
    return sum((prompt, b, a) in seen for prompt, a, b in seen) // 2
