"""Find texts that overlap with evaluation data: training on them makes the evaluation's numbers too good.

Three rules, the strongest first: the texts are equal; half of the evaluation text's runs of 8 words are in the text; or
13 words in a row are in both.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tiltlm.data.cache.fingerprints import digest
from tiltlm.data.similarity.shingles import Shingles, normal_text, word_shingles

RUN_WORDS = 8
"""Words of the runs that are looked up."""
LEAST_SHARE = 0.5
"""Share of an evaluation text's runs that must be in a text."""
LEAST_WORDS = 13
"""Words in a row that must be in both texts."""
TEMPLATE = 10
"""A run that more evaluation texts than this contain is an instruction that they share; it says nothing about leaks."""

_BLOCK = 1024
"""Evaluation texts that are hashed together."""


@dataclass(frozen=True)
class Overlap:
    """How a text overlaps with an evaluation text."""

    kind: Literal["exact", "ngram", "longest"]
    """The rule that holds: equal text, half of the runs of 8 words, or 13 words in a row."""
    other: str
    """Name of the evaluation text."""
    share: float
    """Share of the evaluation text's distinct runs of 8 words that are in the text."""
    longest: int
    """Words of the longest run that both have."""


class Contamination:
    """The runs of words of evaluation texts, to look up other texts in them.

    Texts are compared without regard to case, the form of accents and white space. A text of fewer than 8 words has no
    runs, so only an equal text overlaps with it. Memory: 16 bytes for each word of the evaluation texts.
    """

    def __init__(self, names: Sequence[str], texts: Sequence[str]) -> None:
        """Index evaluation texts; `of` does the same from pairs.

        Args:
            names: Name of each text, for reports.
            texts: The texts. Equal ones count once, under the first name.
        """
        first: dict[bytes, int] = {}
        normal: list[str] = []
        self._names = []
        for name, text in zip(names, map(normal_text, texts), strict=True):
            if first.setdefault(_digest(text), len(normal)) == len(normal) and text:
                normal.append(text)
                self._names.append(name)
        self._exact = first
        self._num_words = [text.count(" ") + 1 for text in normal]
        blocks = [_shifted(word_shingles(normal[i : i + _BLOCK], RUN_WORDS), i) for i in range(0, len(normal), _BLOCK)]
        hashes, of_text, positions = (np.concatenate([_NONE[k], *(b[k] for b in blocks)]) for k in range(3))
        order = np.lexsort((positions, of_text, hashes))
        hashes, of_text, positions = hashes[order], of_text[order], positions[order]
        is_common = _in_many_texts(hashes, of_text)
        self._texts, self._positions = of_text[~is_common], positions[~is_common]
        self._runs, self._first = np.unique(hashes[~is_common], return_index=True)
        self._last = np.append(self._first[1:], len(self._texts))
        runs = np.repeat(np.arange(len(self._runs)), self._last - self._first)
        self._num_runs = np.bincount(
            _distinct_pairs(self._texts, runs), minlength=len(normal)
        )  # distinct, of each text

    @classmethod
    def of(cls, texts: Iterable[tuple[str, str]]) -> "Contamination":
        """Index evaluation data.

        Args:
            texts: Name and text of each row of the evaluation data.
        """
        pairs = list(texts)
        return cls([name for name, _ in pairs], [text for _, text in pairs])

    def find(self, text: str) -> Overlap | None:
        """Return the overlap of a text with the evaluation text that shares most with it, or None."""
        return self.find_many([text])[0]

    def find_many(self, texts: Sequence[str]) -> list[Overlap | None]:
        """Return the overlap of each text, as `find` does. Many texts in one call are faster."""
        normal = [normal_text(text) for text in texts]
        found: list[Overlap | None] = [None] * len(normal)
        shingles = word_shingles(normal, RUN_WORDS)
        at = np.searchsorted(self._runs, shingles.hashes)
        at[at == len(self._runs)] = 0
        hits = np.flatnonzero(self._runs[at] == shingles.hashes) if len(self._runs) else np.empty(0, np.int64)
        firsts = np.flatnonzero(np.diff(shingles.texts[hits], prepend=-1))
        for first, last in zip(firsts.tolist(), np.append(firsts, len(hits))[1:].tolist(), strict=True):
            some = hits[first:last]
            found[shingles.texts[some[0]]] = self._overlap(at[some], shingles.positions[some])
        for i, text in enumerate(normal):
            row = self._exact.get(_digest(text)) if text else None
            if row is not None:
                found[i] = Overlap("exact", self._names[row], 1.0, self._num_words[row])
        return found

    def _overlap(self, runs: NDArray[np.int64], positions: NDArray[np.int64]) -> Overlap | None:
        """Return the overlap of a text that has these runs at these positions."""
        counts = self._last[runs] - self._first[runs]
        hit = np.repeat(np.arange(len(runs)), counts)
        entry = self._first[runs][hit] + np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        others = self._texts[entry]
        names, num_shared = np.unique(_distinct_pairs(others, runs[hit]), return_counts=True)
        shares = num_shared / self._num_runs[names]
        longest = _longest(np.searchsorted(names, others), positions[hit], self._positions[entry], len(names))
        best = np.lexsort((names, -longest, -shares))[0]
        if shares[best] < LEAST_SHARE:  # a long run of a long text may be a small share of it
            best = np.lexsort((names, -shares, -longest))[0]
            if longest[best] < LEAST_WORDS:
                return None
        kind: Literal["ngram", "longest"] = "ngram" if shares[best] >= LEAST_SHARE else "longest"
        return Overlap(kind, self._names[names[best]], float(shares[best]), int(longest[best]))


_NONE = Shingles(np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.int64))


def _digest(text: str) -> bytes:
    return digest(text.encode("utf-8", "surrogatepass"))


def _shifted(shingles: Shingles, by: int) -> Shingles:
    """Return runs with a number added to the index of their text."""
    return shingles._replace(texts=shingles.texts + by)


def _distinct_pairs(texts: NDArray[np.int64], runs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the text of each distinct pair of a text and a run."""
    base = int(runs.max(initial=0)) + 1
    return np.unique(texts * base + runs) // base


def _in_many_texts(hashes: NDArray[np.uint64], texts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which entries of a table, sorted by hash and text, have a hash that more than `TEMPLATE` texts have."""
    is_new_run = np.diff(hashes, prepend=~hashes[:1]) != 0
    run = np.cumsum(is_new_run) - 1
    is_new_text = is_new_run | (np.diff(texts, prepend=-1) != 0)
    texts_of_run = np.bincount(run, weights=is_new_text)
    is_common: NDArray[np.bool_] = texts_of_run[run] > TEMPLATE
    return is_common


def _longest(
    texts: NDArray[np.int64], ours: NDArray[np.int64], theirs: NDArray[np.int64], num_texts: int
) -> NDArray[np.int64]:
    """Return the words of the longest common run with each evaluation text.

    Runs of 8 words that follow each other in both texts are parts of a longer run.

    Args:
        texts: The evaluation text of each common run of 8 words, from 0.
        ours: Position of the run in the text.
        theirs: Position of the run in the evaluation text.
        num_texts: Number of evaluation texts.
    """
    order = np.lexsort((ours, ours - theirs, texts))
    texts, ours, shift = texts[order], ours[order], (ours - theirs)[order]
    breaks = (np.diff(texts) != 0) | (np.diff(shift) != 0) | (np.diff(ours) != 1)
    firsts = np.concatenate([[0], np.flatnonzero(breaks) + 1])
    lengths = np.diff(np.append(firsts, len(texts))) + RUN_WORDS - 1
    longest = np.zeros(num_texts, np.int64)
    np.maximum.at(longest, texts[firsts], lengths)
    return longest
