"""Checks of nearly equal texts: near duplicates within the data, and training prompts close to evaluation prompts."""

from array import array
from collections.abc import Iterator
from typing import Self

import numpy as np

from tiltlm.data.cache.fingerprints import digest
from tiltlm.data.quality.checked_row import Check, CheckedRow, Mark
from tiltlm.data.quality.rules import Rule
from tiltlm.data.rows.cells import TokenContent
from tiltlm.data.similarity.near_duplicates import NearDuplicates

SIMILARITY = 0.8
"""Jaccard similarity of the runs of five words from which two texts are near duplicates."""


class _Texts:
    """Texts of one kind as signatures, with the row and a digest of each."""

    def __init__(self) -> None:
        self.near = NearDuplicates(SIMILARITY)
        self.rows = array("q")
        self.digests = bytearray()

    def add(self, row: int, text: str) -> None:
        """Add the text of a row."""
        self.near.add("", text)
        self.rows.append(row)
        self.digests += digest(text.encode("utf-8", "surrogatepass"))

    def merge(self, later: "_Texts", offset: int) -> None:
        """Add the texts of later rows."""
        self.near.merge(later.near)
        self.rows.extend(offset + row for row in later.rows)
        self.digests += later.digests

    def near_rows(self) -> Iterator[tuple[int, int]]:
        """Yield each row whose text is near to an earlier one and equal to none, with the first row of its group."""
        if len(self.rows) < 2:
            return
        groups = self.near.group_numbers()
        _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
        keys = np.frombuffer(bytes(self.digests), "S16")
        _, earliest, which = np.unique(keys, return_index=True, return_inverse=True)
        is_new = earliest[which] == np.arange(len(keys))
        for k in np.flatnonzero((first[inverse] != np.arange(len(groups))) & is_new):
            yield self.rows[k], self.rows[first[inverse[k]]]


class NearTexts(Check):
    """D05: prompts, and responses, that are nearly equal to those of an earlier row.

    It holds a signature of 256 bytes for a prompt and another one for the responses of a row.
    """

    rules = (
        Rule(
            "near_prompt",
            "D05",
            "warning",
            "the prompt is nearly equal to that of an earlier row",
            "keep near prompts together when you split: one of them in the evaluation data makes its numbers too good",
        ),
        Rule(
            "near_responses",
            "D05",
            "warning",
            "the responses are nearly equal to those of an earlier row",
            "see if such rows should count several times",
        ),
    )

    def __init__(self) -> None:
        self._prompts, self._responses = _Texts(), _Texts()

    def see(self, row: CheckedRow) -> Iterator[Mark]:
        """Remember the texts."""
        if not isinstance(row.record.prompt, TokenContent):
            if row.prompt.strip():
                self._prompts.add(row.index, row.prompt)
            self._responses.add(row.index, "\n".join(row.responses))
        yield from ()

    def merge(self, later: Self, offset: int) -> None:
        """Add the texts of later rows."""
        self._prompts.merge(later._prompts, offset)
        self._responses.merge(later._responses, offset)

    def late_marks(self) -> Iterator[tuple[int, Mark]]:
        """Mark every row but the first of near ones. Rows with an equal text are not marked."""
        for key, texts in (("near_prompt", self._prompts), ("near_responses", self._responses)):
            for row, first in texts.near_rows():
                yield row, Mark(key, "near", same_as=first)


class Overlaps(Check):
    """D13: training prompts that share much text with an evaluation prompt, without being equal to it."""

    rules = (
        Rule(
            "overlapping_prompt",
            "D13",
            "error",
            "the prompt shares at least half of its runs of 8 words with a prompt of the evaluation data",
            "delete one of the two, or split by groups of near prompts",
            leaves_out=True,
        ),
        Rule(
            "common_passage",
            "D13",
            "warning",
            "the prompt has a passage of 13 words or more in common with a prompt of the evaluation data",
            "look at it: a common instruction is harmless, a common question is not",
        ),
    )

    def see(self, row: CheckedRow) -> Iterator[Mark]:
        """Mark a training row by its overlap."""
        if row.evaluation is None or row.from_eval or not row.prompt.strip():
            return
        found = None if row.prompt_digest in row.evaluation.prompts else row.evaluation.index.find(row.prompt)
        if found is None:
            return
        key = "common_passage" if found.kind == "longest" else "overlapping_prompt"
        yield Mark(key, f"{found.other}: {found.share:.0%} of the runs, {found.longest} words in a row")


CHECKS = (NearTexts, Overlaps)
