"""Cut texts into overlapping runs of words (shingles) and hash them, many texts at a time.

A run is hashed as a polynomial of its characters modulo 2⁶⁴. With prefix sums, the hash of any run costs one
subtraction and one multiplication, so numpy hashes all runs of a thousand texts in a few calls. The hashes depend on
the text alone: they are equal in every process and on every machine.
"""

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

UNSPACED = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])"
)
"""Characters of scripts without spaces between words: Thai, Lao, Burmese, Khmer, Chinese, Japanese. Each is a word."""

SHORT = 5
"""Characters of the shingles of a text that has fewer words than a shingle."""


class Shingles(NamedTuple):
    """Hashed runs of words of several texts. Those of the first text come first."""

    hashes: NDArray[np.uint64]
    """Hash of each run."""
    texts: NDArray[np.int64]
    """Index of the text of each run."""
    positions: NDArray[np.int64]
    """Index of the first word of each run within its text; −1 for a run of characters."""


def normal_text(text: str) -> str:
    """Return a text in the form in which texts are compared.

    Case, the form of accents (Unicode NFC) and the amount of white space make no difference. In scripts without spaces
    between words, every character becomes a word.
    """
    if text.isascii():
        return " ".join(text.lower().split())
    return " ".join(UNSPACED.sub(r" \1 ", unicodedata.normalize("NFC", text.casefold())).split())


def fixed_numbers(name: str, count: int) -> NDArray[np.uint64]:
    """Return pseudo-random numbers of 64 bits that depend on the name alone."""
    return np.frombuffer(hashlib.shake_256(name.encode()).digest(8 * count), "<u8").astype(np.uint64)


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the numbers with their bits mixed: each bit of a result depends on all bits (the finaliser of SplitMix64).

    The map is a bijection, so different numbers stay different.
    """
    values = (values ^ (values >> np.uint64(30))) * np.array(0xBF58476D1CE4E5B9, np.uint64)
    values = (values ^ (values >> np.uint64(27))) * np.array(0x94D049BB133111EB, np.uint64)
    return values ^ (values >> np.uint64(31))


_Runs = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""Start, end and text of each run."""


def word_shingles(texts: Sequence[str], size: int, *, short: bool = False) -> Shingles:
    """Return all runs of `size` words of each text.

    Args:
        texts: Texts as `normal_text` returns them.
        size: Words of a run, at least 2.
        short: Give texts of fewer words runs of `SHORT` characters, or the whole text if it is shorter still. So every
            text has at least one run. False: such texts have none.
    """
    if not texts:
        return Shingles(np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.int64))
    block = _Block(texts)
    firsts = np.flatnonzero(block.text_of_word[: 1 - size] == block.text_of_word[size - 1 :])
    runs: list[_Runs] = [(block.starts[firsts], block.ends[firsts + size - 1], block.text_of_word[firsts])]
    positions = [firsts - block.first_word[block.text_of_word[firsts]]]
    if short:
        for run in _short_runs(block, np.bincount(block.text_of_word, minlength=len(texts)) < size):
            runs.append(run)
            positions.append(np.full(len(run[0]), -1))
    starts, ends, of_text = (np.concatenate(parts) for parts in zip(*runs, strict=True))
    order = np.argsort(of_text, kind="stable")
    return Shingles(block.hashes(starts, ends)[order], of_text[order], np.concatenate(positions)[order])


def _short_runs(block: "_Block", is_short: NDArray[np.bool_]) -> list[_Runs]:
    """Return start, end and text of the runs of characters of short texts."""
    first, last = block.text_starts, block.text_ends
    tiny = np.flatnonzero(is_short & (last - first < SHORT))
    others = np.flatnonzero(is_short & (last - first >= SHORT))
    counts = last[others] - first[others] - SHORT + 1
    of_text = np.repeat(others, counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = first[of_text] + within
    return [(first[tiny], last[tiny], tiny), (starts, starts + SHORT, of_text)]


class _Block:
    """Some texts as one array of characters, with the places of their words."""

    def __init__(self, texts: Sequence[str]) -> None:
        joined = "\n".join(texts).encode("utf-32-le", "surrogatepass")
        characters = np.frombuffer(joined, "<u4")
        breaks = np.flatnonzero((characters == ord(" ")) | (characters == ord("\n")))
        self.starts = np.concatenate([[0], breaks + 1])
        """Start of each word. An empty text has one empty word."""
        self.ends = np.concatenate([breaks, [len(characters)]])
        self.text_of_word = np.concatenate([[0], np.cumsum(characters[breaks] == ord("\n"))])
        self.first_word = np.searchsorted(self.text_of_word, np.arange(len(texts)))
        self.text_starts = self.starts[self.first_word]
        last_word = np.append(self.first_word[1:], len(self.starts)) - 1
        self.text_ends = self.ends[last_word]
        powers, self._inverses = _powers(1 << max(len(characters), 1).bit_length())
        values = (characters.astype(np.uint64) + np.uint64(1)) * powers[: len(characters)]
        self._sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(values, dtype=np.uint64)])

    def hashes(self, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Return the hash of the characters from each start to its end."""
        return mix((self._sums[ends] - self._sums[starts]) * self._inverses[starts])


@lru_cache(maxsize=2)
def _powers(count: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return the powers of the polynomial's base, and those of its inverse, modulo 2⁶⁴."""
    base = int(fixed_numbers("base of shingles", 1)[0]) // 8 * 8 + 5  # 5 modulo 8: the powers repeat only after 2⁶²
    bases = (base, pow(base, -1, 1 << 64))
    steps = (np.concatenate([np.ones(1, np.uint64), np.full(count, b, np.uint64)]) for b in bases)
    powers, inverses = (np.cumprod(step, dtype=np.uint64) for step in steps)
    return powers, inverses
