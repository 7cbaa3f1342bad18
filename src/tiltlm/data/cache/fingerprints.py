"""Hash content: fingerprints of data sets, the choice of held-out prompts, digests to find equal or opposite rows."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tiltlm.core.example import Example


def is_held_out(prompt: str, fraction: float, seed: int) -> bool:
    """Decide from a prompt's text if it is held out, so that added rows change no decision for others."""
    return prompt_position(prompt, seed) < fraction


def prompt_position(prompt: str, seed: int) -> float:
    """Return a number in [0, 1) that depends on a prompt's text and the seed alone: its place in a split."""
    digest = hashlib.sha256(f"{seed}\0{prompt}".encode("utf-8", "surrogatepass")).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def fingerprint(*parts: Sequence[Example]) -> str:
    """Return the sha256 of all examples in order, in hexadecimal, without their ids, sources and partners."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"part {len(part)}".encode())
        for example in part:
            for piece in _pieces(example):
                digest.update(len(piece).to_bytes(8, "big") + piece)
    return digest.hexdigest()


def example_digest(example: Example) -> bytes:
    """Return the BLAKE2b-128 of an example without its id, source and partners."""
    return digest(*_pieces(example))


def _pieces(example: Example) -> Iterator[bytes]:
    yield example.prompt_ids.tobytes()
    for response in example.responses:
        yield from response.key
        yield repr((response.ended, response.ref_logps)).encode()
    known = (example.comparisons, example.labels, example.ranks, example.scores, example.weight)
    yield json.dumps(known, default=vars).encode()


def digest(*pieces: bytes) -> bytes:
    """Return the BLAKE2b-128 of these pieces: 16 bytes stand for a text when millions are compared."""
    return hashlib.blake2b(b"".join(len(p).to_bytes(8, "big") + p for p in pieces), digest_size=16).digest()


def distinct(digests: bytes | bytearray) -> NDArray[np.bytes_]:
    """Return the distinct digests, sorted.

    Args:
        digests: Digests of 16 bytes, joined.
    """
    return np.unique(np.frombuffer(digests, "S16"))


def comparison_digests(example: Example) -> Iterator[tuple[bytes, bool]]:
    """Yield a digest of (prompt, two responses) for each comparison, and which of the two is preferred.

    The digest does not depend on the preference, so two rows that contradict each other give the same digest with
    different preferences. A tie prefers neither, and a `preference` below ½ the rejected one.
    """
    for c in example.comparisons:
        if c.preference == 0.5:
            continue
        chosen, rejected = (digest(*example.responses[k].key) for k in (c.chosen, c.rejected))
        yield (
            digest(example.prompt_ids.tobytes(), *sorted((chosen, rejected))),
            (chosen < rejected) == (c.preference > 0.5),
        )


def prompt_numbers(examples: Iterable[Example]) -> NDArray[np.int64]:
    """Return the number of each example's prompt. Distinct prompts are numbered from 0 in order of appearance."""
    numbers: dict[bytes, int] = {}
    of_examples = (numbers.setdefault(digest(e.prompt_ids.tobytes()), len(numbers)) for e in examples)
    return np.fromiter(of_examples, np.int64)
