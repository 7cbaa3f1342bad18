"""Decide which part of a split each row belongs to. Rows of one prompt, and of nearly equal prompts, stay together.

A prompt has a position in [0, 1), a hash of its text and the seed. The first positions are validation data, the next
ones test data, the rest training data. `data.eval_fraction` decides in the same way, so it holds out the same prompts
as a split with this share, as long as no prompt has near duplicates.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tiltlm.core.errors import ConfigError
from tiltlm.data.cache.fingerprints import digest, prompt_position
from tiltlm.data.rows.canonical import SIZE, content_fingerprint, record_digest
from tiltlm.data.rows.cells import Content, TokenContent
from tiltlm.data.rows.prompts import ASSISTANT, HUMAN
from tiltlm.data.rows.records import Record
from tiltlm.data.similarity.near_duplicates import NearDuplicates

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")
"""Parts of a split, by the names that the Hub uses."""

LEFT_OUT = -1
"""Number of the prompt of a row that is defective."""


@dataclass(frozen=True)
class SplitRule:
    """How prompts are divided."""

    eval: float = 0.1
    """Share of the prompts for validation."""
    test: float = 0.0
    """Share of the prompts for test."""
    seed: int = 0
    """Another seed divides the prompts in another way; `data.eval_seed` of a run means the same."""
    similarity: float = 0.8
    """Prompts of at least this similarity (`NearDuplicates`) stay together; 1: only equal prompts."""
    by_stratum: bool = False
    """True: each stratum is divided by itself, in exactly these shares as far as whole groups allow it."""

    def __post_init__(self) -> None:
        for name, share in (("eval", self.eval), ("test", self.test)):
            if not 0 <= share < 1:
                raise ConfigError(
                    f"{name}={share:g} must be a share of the prompts: 0 ≤ value < 1", code="out_of_range", key=name
                )
        if not 0 < self.eval + self.test < 1:
            raise ConfigError(
                f"eval={self.eval:g} and test={self.test:g} together must be above 0 and below 1: each part gets "
                "prompts, and the rest is for training",
                code="out_of_range",
                key="eval",
            )
        if self.seed < 0:
            raise ConfigError(f"seed={self.seed} must be 0 or more", code="negative", key="seed")
        NearDuplicates(self.similarity)  # refuses a threshold out of range


@dataclass(eq=False)
class SplitPlan:
    """The prompts of a data set, row by row, and then the part of each row.

    A row needs about 60 bytes, and a distinct prompt 0.5 kB. Texts are not kept.
    """

    rule: SplitRule
    prompts: list[int] = field(default_factory=list)
    """Number of each row's prompt, from 0 in order of appearance, or `LEFT_OUT`."""
    _numbers: dict[bytes, int] = field(default_factory=dict)
    _positions: list[float] = field(default_factory=list)
    _strata: list[str] = field(default_factory=list)
    """Stratum of each prompt: the first one in alphabetical order of those of its rows."""
    _texts: NearDuplicates = field(init=False)
    _content: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        self._texts = NearDuplicates(self.rule.similarity)

    def add(self, record: Record, stratum: str = "", content: bytes | None = None) -> int:
        """Add a row, and return the number of its prompt.

        Args:
            record: The row.
            stratum: Value of the column by which the split is stratified.
            content: Digest of the content of the row, of `SIZE` bytes. None: `record_digest`.
        """
        key = digest(record.prompt_key.encode("utf-8", "surrogatepass"))
        number = self._numbers.setdefault(key, len(self._numbers))
        if number == len(self._positions):
            self._positions.append(prompt_position(record.prompt_key, self.rule.seed))
            self._strata.append(stratum)
            if self.rule.similarity < 1:
                self._texts.add("", compared_text(record))
        self._strata[number] = min(self._strata[number], stratum)
        self.prompts.append(number)
        self._content += content or record_digest(record)
        return number

    def leave_out(self) -> None:
        """Add a defective row, which is in no part."""
        self.prompts.append(LEFT_OUT)
        self._content += bytes(SIZE)

    @property
    def num_prompts(self) -> int:
        """Number of distinct prompts."""
        return len(self._positions)

    def strata(self, rows: NDArray[np.bool_]) -> list[str]:
        """Return the stratum of each of the chosen rows' prompts."""
        return [self._strata[number] for number in np.array(self.prompts)[rows]]

    def groups(self) -> NDArray[np.int64]:
        """Return the number of each prompt's group of near duplicates, from 0."""
        return self._texts.group_numbers() if self.rule.similarity < 1 else np.arange(self.num_prompts)

    def parts_of_groups(self, groups: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the part of each group, as an index into `PARTS`.

        A group has the position of one of its prompts, its leader: the one with the smallest second hash. A first hash
        would not do, because the smallest of many positions is small: large groups would all be validation data.
        """
        positions = np.array(self._positions)
        second = np.array([prompt_position(key.hex(), self.rule.seed) for key in self._numbers])
        order = np.lexsort((second, groups))
        leaders = order[np.unique(groups[order], return_index=True)[1]]
        places = positions[leaders]
        if self.rule.by_stratum:
            sizes = np.bincount(groups)
            strata = np.unique(np.array(self._strata)[leaders], return_inverse=True)[1]
            for stratum in range(strata.max(initial=-1) + 1):
                members = np.flatnonzero(strata == stratum)
                places[members] = _ranks(places[members], sizes[members])
        return np.select([places < self.rule.eval, places < self.rule.eval + self.rule.test], [1, 2], 0)

    def fingerprint(self, rows: NDArray[np.bool_]) -> str:
        """Return the content fingerprint of the chosen rows."""
        table = np.frombuffer(bytes(self._content), np.uint8).reshape(-1, SIZE)
        return content_fingerprint(table[rows].tobytes())


def _ranks(positions: NDArray[np.float64], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the middle of each group, as a share of all prompts, when groups are sorted by position."""
    order = np.argsort(positions, kind="stable")
    middles = np.cumsum(sizes[order]) - sizes[order] / 2
    ranks = np.empty_like(middles)
    ranks[order] = middles / max(sizes.sum(), 1)
    return ranks


def compared_text(record: Record) -> str:
    """Return the text of a row's prompt, or of its first response if it has none."""
    return plain_text(record.prompt) or plain_text(record.responses[0])


def plain_text(content: Content) -> str:
    """Return a prompt or a response as text to be compared: turns without their roles, token ids as words."""
    if isinstance(content, TokenContent):
        return " ".join(map(str, content.ids))
    if isinstance(content, str):
        return content.replace(HUMAN, "\n").replace(ASSISTANT, "\n") if content.startswith(HUMAN) else content
    return "\n".join(str(turn.get("content") or "") for turn in content)


def part_rows(parts: NDArray[np.int64], prompts: Sequence[int], groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the part of each row, as an index into `PARTS`; `LEFT_OUT` for a defective row."""
    numbers = np.array(prompts, np.int64)
    found = np.full(len(numbers), LEFT_OUT)
    kept = numbers != LEFT_OUT
    found[kept] = parts[groups[numbers[kept]]]
    return found
