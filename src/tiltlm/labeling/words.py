"""Word diff of two responses, for the page and for the terminal."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import Match, SequenceMatcher
from typing import Literal

from tiltlm.core.errors import DataError

MAX_STEPS = 3_000_000
"""Comparisons of one diff, so that two long texts cannot hold up the app: at most about a second."""

WITHOUT_BLANKS = "\u2e80-\u303f\u3040-\u312f\u31a0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Characters of Chinese and Japanese, which puts no blanks between words: each is a word of its own."""
PUNCTUATION = r"!-/:-@\[-`{-~\u00a1-\u00bf\u2000-\u206f\uff00-\uff0f"
WORD = re.compile(rf"\s+|[{WITHOUT_BLANKS}{PUNCTUATION}]|[^\s{WITHOUT_BLANKS}{PUNCTUATION}]+")

MARKS = re.compile(rf"[\s{PUNCTUATION}\u3000-\u303f]*")


@dataclass(frozen=True)
class Part:
    """A piece of a text, in a diff of two texts."""

    kind: Literal["same", "changed"]
    text: str


def word_diff(left: str, right: str) -> tuple[list[Part], list[Part]]:
    """Return two texts in parts that both have and parts that only one has.

    Words are compared, and lines where the texts are too long for that. The time is bounded, and the same texts always
    give the same parts.

    Args:
        left: A text.
        right: Another text.

    Returns:
        The parts of either text, in order. They are the whole text when they are joined; no two parts of one kind
        follow each other, and none is empty.

    Raises:
        DataError: `too_long`: even comparing lines would take too long.
    """
    for pieces in (WORD.findall, _lines):
        first, second = pieces(left), pieces(right)
        try:
            return _parts(first, second)
        except _TooManySteps:
            continue
    raise DataError(
        f"the two responses are too long for a word diff: {len(left):,} and {len(right):,} characters",
        code="too_long",
    )


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def _is_mark(piece: str) -> bool:
    """Return True for blanks and punctuation."""
    return MARKS.fullmatch(piece) is not None


class _TooManySteps(Exception):
    """A diff would take more than `MAX_STEPS`."""


class _BoundedMatcher(SequenceMatcher[str]):
    """A matcher that counts the comparisons it makes.

    Blanks and punctuation alone are no match, since they say nothing about where texts are equal; beside a match they
    belong to it.
    """

    def __init__(self, a: Sequence[str], b: Sequence[str]) -> None:
        self.steps_left = MAX_STEPS
        counts = Counter(b)
        self.costs = [1 if _is_mark(piece) else 1 + counts[piece] for piece in a]
        super().__init__(_is_mark, a, b, autojunk=False)

    def find_longest_match(self, alo: int = 0, ahi: int | None = None, blo: int = 0, bhi: int | None = None) -> Match:
        self.steps_left -= sum(self.costs[alo:ahi])
        if self.steps_left < 0:
            raise _TooManySteps
        return super().find_longest_match(alo, ahi, blo, bhi)


def _parts(a: Sequence[str], b: Sequence[str]) -> tuple[list[Part], list[Part]]:
    """Return the parts of two texts that are given in pieces."""
    shortest = min(len(a), len(b))
    start = next((i for i in range(shortest) if a[i] != b[i]), shortest)
    end = next((i for i in range(shortest - start) if a[-1 - i] != b[-1 - i]), shortest - start)
    inner = (a[start : len(a) - end], b[start : len(b) - end])
    left, right = _Text(), _Text()
    for text, pieces in ((left, a), (right, b)):
        text.add("same", pieces[:start])
    for kind, i1, i2, j1, j2 in _BoundedMatcher(*inner).get_opcodes():
        left.add("same" if kind == "equal" else "changed", inner[0][i1:i2])
        right.add("same" if kind == "equal" else "changed", inner[1][j1:j2])
    for text, pieces in ((left, a), (right, b)):
        text.add("same", pieces[len(pieces) - end :])
    return left.parts, right.parts


class _Text:
    """The parts of one text so far."""

    def __init__(self) -> None:
        self.parts: list[Part] = []

    def add(self, kind: Literal["same", "changed"], pieces: Sequence[str]) -> None:
        """Add pieces, to the part before them if it has the same kind."""
        text = "".join(pieces)
        if not text:
            return
        if self.parts and self.parts[-1].kind == kind:
            text = self.parts.pop().text + text
        self.parts.append(Part(kind, text))
