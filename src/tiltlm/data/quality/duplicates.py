"""Checks that compare rows by digests: duplicates, opposite labels, training prompts in evaluation data."""

from array import array
from collections.abc import Iterable, Iterator
from typing import Self

import numpy as np

from tiltlm.data.cache.fingerprints import digest
from tiltlm.data.quality.checked_row import Check, CheckedRow, Mark
from tiltlm.data.quality.rules import Rule


class Duplicates(Check):
    """D04: the same row again, and the same responses with the opposite label.

    It holds 24 bytes for a row, and 24 for a comparison or a label.
    """

    rules = (
        Rule(
            "duplicate",
            "D04",
            "warning",
            "the row repeats an earlier one: same prompt, responses and label",
            "delete it, unless it should count twice",
            leaves_out=True,
        ),
        Rule(
            "opposite_label",
            "D04",
            "error",
            "the same prompt and responses have the opposite label in another row",
            "keep the row that is right, or one row with `preference` or `votes`",
            leaves_out=True,
        ),
    )

    def __init__(self) -> None:
        self._rows = array("q")
        self._digests = bytearray()
        self._sides: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        self._side_rows = (array("q"), array("q"))

    def see(self, row: CheckedRow) -> Iterable[Mark]:
        """Remember the row, and what it says about its responses."""
        responses = [row.response_digest(k) for k in range(len(row.responses))]
        known = (row.record.comparisons, row.record.labels, row.record.ranks, row.record.scores)
        prompt = row.prompt_digest
        self._rows.append(row.index)
        self._digests += digest(bytes([row.from_eval]), prompt, *responses, repr(known).encode())
        for c in row.comparisons:
            if c.preference > 0.5:
                a, b = responses[c.chosen], responses[c.rejected]
                self._say(a < b, row.index, prompt, *sorted((a, b)))
        for response, label in zip(responses, row.record.labels, strict=False):
            self._say(label, row.index, prompt, response)
        return ()

    def _say(self, side: bool, index: int, *pieces: bytes) -> None:
        self._sides[side].extend(digest(*pieces))
        self._side_rows[side].append(index)

    def merge(self, later: Self, offset: int) -> None:
        """Add the digests of later rows."""
        self._rows.extend(offset + row for row in later._rows)
        self._digests += later._digests
        for side in (False, True):
            self._sides[side].extend(later._sides[side])
            self._side_rows[side].extend(offset + row for row in later._side_rows[side])

    def late_marks(self) -> Iterator[tuple[int, Mark]]:
        """Mark every row but the first of equal ones, and all rows that contradict each other."""
        keys = np.frombuffer(bytes(self._digests), "S16")
        if not len(keys):
            return
        rows = np.array(self._rows)
        _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        for k in np.flatnonzero(first[inverse] != np.arange(len(keys))):
            yield int(rows[k]), Mark("duplicate", same_as=int(rows[first[inverse[k]]]))
        sides = [np.frombuffer(bytes(side), "S16") for side in self._sides]
        both = np.intersect1d(np.unique(sides[0]), np.unique(sides[1]), assume_unique=True)
        opposed = set()
        for keys, places in zip(sides, self._side_rows, strict=True):
            opposed |= {places[k] for k in np.flatnonzero(np.isin(keys, both))}
        for row in sorted(opposed):
            yield row, Mark("opposite_label")


class SharedPrompts(Check):
    """D13: prompts of the training data that are in the evaluation data too."""

    rules = (
        Rule(
            "shared_prompt",
            "D13",
            "error",
            "the prompt of a training row is in the evaluation data too, so numbers on that data are too good",
            "delete one of the two, or split by prompt",
            leaves_out=True,
        ),
    )

    def __init__(self) -> None:
        self._prompts: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        self._rows = (array("q"), array("q"))

    def see(self, row: CheckedRow) -> Iterable[Mark]:
        """Remember the prompt."""
        self._prompts[row.from_eval].extend(row.prompt_digest)
        self._rows[row.from_eval].append(row.index)
        return ()

    def merge(self, later: Self, offset: int) -> None:
        """Add the prompts of later rows."""
        for part in (False, True):
            self._prompts[part].extend(later._prompts[part])
            self._rows[part].extend(offset + row for row in later._rows[part])

    def late_marks(self) -> Iterator[tuple[int, Mark]]:
        """Mark the training rows whose prompt is in the evaluation data."""
        trained, evaluated = (np.frombuffer(bytes(part), "S16") for part in self._prompts)
        for k in np.flatnonzero(np.isin(trained, np.unique(evaluated))):
            yield self._rows[False][k], Mark("shared_prompt")


CHECKS = (Duplicates, SharedPrompts)
