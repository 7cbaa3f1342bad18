"""A row as checks see it, and the base of all checks."""

from abc import ABC
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple, Self

from tiltlm.core.example import Comparison
from tiltlm.data.accounting import RowCounts
from tiltlm.data.cache.fingerprints import digest
from tiltlm.data.quality.rules import Finding, Rule
from tiltlm.data.rows.cells import Content, Conversation, TokenContent
from tiltlm.data.rows.records import Record
from tiltlm.data.similarity.contamination import Contamination
from tiltlm.data.tokens.encoder import Encoded


class Mark(NamedTuple):
    """A rule's mark on a row."""

    key: str
    detail: str = ""
    same_as: int = -1
    """Place of another row that the mark is about; -1: there is none."""


def text_of(content: Content) -> str:
    """Return the text of a prompt or a response; of turns their contents, of token ids nothing."""
    if isinstance(content, str):
        return content
    if isinstance(content, TokenContent):
        return ""
    return "\n".join(turn["content"] for turn in content)


def digest_of_prompt(record: Record) -> bytes:
    """Return 16 bytes that stand for the prompt of a record."""
    return digest(record.prompt_key.encode("utf-8", "surrogatepass"))


@dataclass(frozen=True, eq=False)
class EvaluationPrompts:
    """The prompts of evaluation data."""

    index: Contamination
    """Finds overlaps with them."""
    prompts: frozenset[bytes]
    """Digests of them: equal ones are found exactly."""


@dataclass(frozen=True, eq=False)
class CheckedRow:
    """One row that training can use, as checks see it."""

    index: int
    """Its place among all rows of its block, from 0."""
    record: Record
    from_eval: bool = False
    """True for a row of the evaluation data."""
    encoded: Encoded | None = None
    """Its tokens before any cut, if there is a tokenizer."""
    max_length: int | None = None
    """Most tokens of a prompt with one response, if there is a tokenizer."""
    lost: str = ""
    """Cause of D09 for which loading drops the row; empty: it keeps it."""
    evaluation: EvaluationPrompts | None = None
    """The prompts of the evaluation data, if there is any."""
    specials: frozenset[str] = frozenset()
    """Special tokens of the tokenizer, as text."""

    @cached_property
    def prompt(self) -> str:
        """The prompt's text."""
        return text_of(self.record.prompt)

    @cached_property
    def responses(self) -> tuple[str, ...]:
        """The text of each response."""
        return tuple(text_of(response) for response in self.record.responses)

    @cached_property
    def num_bytes(self) -> int:
        """Size of all its text, in bytes of UTF-8."""
        return sum(len(t) if t.isascii() else len(t.encode()) for t in (self.prompt, *self.responses))

    @cached_property
    def turns(self) -> Conversation:
        """The turns of the prompt; none if it is text or token ids."""
        return self.record.prompt if isinstance(self.record.prompt, tuple) else ()

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Length of each response: tokens if there is a tokenizer or the row has token ids, else characters."""
        if self.encoded is not None:
            return tuple(len(response.token_ids) for response in self.encoded.responses)
        return tuple(
            len(r.ids) if isinstance(r, TokenContent) else len(t)
            for r, t in zip(self.record.responses, self.responses, strict=True)
        )

    @cached_property
    def comparisons(self) -> tuple[Comparison, ...]:
        """The comparisons that prefer a response, with the preferred one as `chosen`. Ties are left out."""
        return tuple(c.oriented for c in self.record.comparisons if not c.is_tie)

    @cached_property
    def prompt_digest(self) -> bytes:
        """16 bytes that stand for the prompt."""
        return digest_of_prompt(self.record)

    def response_digest(self, k: int) -> bytes:
        """Return 16 bytes that stand for a response."""
        return digest(repr(self.record.responses[k]).encode("utf-8", "surrogatepass"))

    def name(self, k: int) -> str:
        """Return what a response is called in messages."""
        if len(self.record.comparisons) == 1 and len(self.responses) == 2:
            c = self.record.comparisons[0]
            return "chosen" if k == c.chosen else "rejected"
        return f"response {k}" if len(self.responses) > 1 else "response"


class Check(ABC):
    """One check: it sees the rows of a block, is merged with those of later blocks, and says what it found.

    A check that marks single rows needs `see` alone. One that compares or counts keeps a small state: numbers and
    digests, never texts.
    """

    rules: ClassVar[tuple[Rule, ...]]
    """What it can find. Rows marked in `see` are counted, and reported, by the inspection."""

    def see(self, row: CheckedRow) -> Iterable[Mark]:
        """Look at a row; return a mark for each rule that it breaks."""
        del row
        return ()

    def merge(self, later: Self, offset: int) -> None:
        """Add what was seen in later rows.

        Args:
            later: The check of a later block.
            offset: Number of rows before that block.
        """
        del later, offset

    def late_marks(self) -> Iterator[tuple[int, Mark]]:
        """Yield marks that only all rows together show: the row's place among all rows, and the mark."""
        yield from ()

    def findings(self, marked: "Marked") -> Iterable[Finding]:
        """Return what it found beside marked rows.

        Args:
            marked: How many rows there are and were marked.
        """
        del marked
        return ()

    @classmethod
    def rule(cls, key: str) -> Rule:
        """Return one of its rules."""
        return next(rule for rule in cls.rules if rule.key == key)


class Marked(NamedTuple):
    """Rows of the inspection so far."""

    num_rows: int
    """All rows that were read."""
    locations: Sequence[str]
    """Where each of them is."""
    counts: dict[str, RowCounts]
    """Marked rows of each rule."""
