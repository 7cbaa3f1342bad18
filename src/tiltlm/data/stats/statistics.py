"""Statistics of a data set, collected row by row and merged over blocks: what is in it, before any model sees it.

Memory does not grow with the length of the data, but for 16 bytes a row that tell distinct prompts apart, and for the
names of sources.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tiltlm.core.needs import Shape
from tiltlm.data.accounting import Accounting
from tiltlm.data.cache.fingerprints import digest
from tiltlm.data.rows.cells import Content, TokenContent
from tiltlm.data.rows.records import Record
from tiltlm.data.stats.distinct import DistinctCount, hashes_of, pair_hashes
from tiltlm.data.stats.lengths import LengthBias, rounded, summarise

LengthOf = Callable[[Record], tuple[int, Sequence[int]]]
"""Returns the length of a prompt, and of each response."""
MAX_SOURCES = 1000
"""Names of sources that are told apart; later ones are counted as `OTHER`."""
OTHER = "(other sources)"
NO_SOURCE = "(no source)"


def text_of(content: Content) -> str:
    """Return what people read of a prompt or a response; token ids have no text."""
    if isinstance(content, TokenContent):
        return ""
    return content if isinstance(content, str) else "\n".join(str(turn["content"]) for turn in content)


def count_characters(record: Record) -> tuple[int, Sequence[int]]:
    """Return the number of characters of the prompt and of each response."""
    return len(text_of(record.prompt)), [len(text_of(r)) for r in record.responses]


def count_words(record: Record) -> tuple[int, Sequence[int]]:
    """Return the number of words of the prompt and of each response, split at white space."""
    return len(text_of(record.prompt).split()), [len(text_of(r).split()) for r in record.responses]


@dataclass
class Lengths:
    """Lengths of prompts and responses in one unit."""

    by_role: dict[str, Counter[int]] = field(default_factory=dict)
    """prompt, chosen, rejected, desirable, undesirable, response → histogram (see `rounded`)."""
    bias: LengthBias = field(default_factory=LengthBias)
    """Of every comparison. Those of one prompt are dependent, and are resampled together."""

    def add(self, record: Record, shape: Shape, prompt: int, responses: Sequence[int]) -> None:
        """Add a row with these lengths."""
        self._count("prompt", prompt)
        for k, length in enumerate(responses):
            self._count(role_of(record, k, shape), length)
        for c in record.comparisons:
            self.bias.add(responses[c.chosen], responses[c.rejected], c.preference, record.prompt_key)

    def _count(self, role: str, length: int) -> None:
        self.by_role.setdefault(role, Counter())[rounded(length)] += 1

    def merge(self, later: "Lengths") -> None:
        """Add the lengths of later rows."""
        for role, lengths in later.by_role.items():
            self.by_role.setdefault(role, Counter()).update(lengths)
        self.bias.merge(later.bias)


def role_of(record: Record, k: int, shape: Shape) -> str:
    """Return what response k is: chosen or rejected, desirable or undesirable, or simply a response."""
    if shape == "unpaired":
        return "desirable" if record.labels[k] else "undesirable"
    if shape == "pairs":
        better = 0 if record.comparisons[0].preference >= 0.5 else 1
        return "chosen" if k == better else "rejected"
    return "response"


@dataclass
class DataStatistics:
    """What is in some rows."""

    shape: Shape
    accounting: Accounting = field(default_factory=Accounting)
    """Rows read, and those that could not be read, by cause."""
    lengths: dict[str, Lengths] = field(default_factory=dict)
    """Unit (characters, words, tokens) → lengths."""
    forms: Counter[str] = field(default_factory=Counter)
    """text, turns, tokens → rows."""
    turns: Counter[int] = field(default_factory=Counter)
    """Turns of the prompt → rows of conversations."""
    responses: Counter[int] = field(default_factory=Counter)
    """Responses of a row → rows."""
    labels: Counter[bool] = field(default_factory=Counter)
    """Label → responses of unpaired data."""
    preferences: Counter[float] = field(default_factory=Counter)
    """P(chosen ≻ rejected), with two decimals → comparisons."""
    sources: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    """Language of the prompt → rows, of the rows that were looked at."""
    other_language: int = 0
    """Rows of these in which a response has another language than the prompt."""
    prompts: bytearray = field(default_factory=bytearray)
    """A digest of 16 bytes for each row."""
    words: tuple[DistinctCount, DistinctCount] = field(default_factory=lambda: (DistinctCount(), DistinctCount()))
    """Words and pairs of neighbouring words of the prompts."""

    def add(self, record: Record, lengths: Mapping[str, tuple[int, Sequence[int]]]) -> None:
        """Add a row.

        Args:
            record: The row.
            lengths: Unit → length of the prompt, and of each response.
        """
        self.accounting.kept_train += 1
        for unit, (prompt, responses) in lengths.items():
            self.lengths.setdefault(unit, Lengths()).add(record, self.shape, prompt, responses)
        self.forms[record.form] += 1
        if isinstance(record.prompt, tuple):
            self.turns[len(record.prompt)] += 1
        self.responses[len(record.responses)] += 1
        self.labels.update(record.labels)
        self.preferences.update(round(max(c.preference, 1 - c.preference), 2) for c in record.comparisons)
        name = record.source or NO_SOURCE
        self.sources[name if name in self.sources or len(self.sources) < MAX_SOURCES else OTHER] += 1
        self.prompts.extend(digest(record.prompt_key.encode("utf-8", "surrogatepass")))
        hashes = hashes_of(text_of(record.prompt).split())
        self.words[0].add(hashes)
        self.words[1].add(pair_hashes(hashes))

    def merge(self, later: "DataStatistics") -> None:
        """Add the statistics of later rows."""
        self.accounting.merge(later.accounting)
        for unit, lengths in later.lengths.items():
            self.lengths.setdefault(unit, Lengths()).merge(lengths)
        counters = ("forms", "turns", "responses", "labels", "preferences", "languages")
        for own, other in ((getattr(self, name), getattr(later, name)) for name in counters):
            own.update(other)
        for name, n in later.sources.items():
            self.sources[name if name in self.sources or len(self.sources) < MAX_SOURCES else OTHER] += n
        self.other_language += later.other_language
        self.prompts.extend(later.prompts)
        for words, more in zip(self.words, later.words, strict=True):
            words.merge(more)

    @property
    def num_rows(self) -> int:
        """Rows that were read."""
        return self.accounting.kept_train

    def prompt_counts(self) -> Counter[int]:
        """Return how many prompts have one row, two rows, and so on."""
        _, rows = np.unique(np.frombuffer(self.prompts, "S16"), return_counts=True)
        return Counter(rows.tolist())

    def as_dict(self) -> dict[str, Any]:
        """Return all numbers as plain values for JSON."""
        per_prompt = self.prompt_counts()
        return {
            "shape": self.shape,
            "rows": {
                "read": self.accounting.total,
                "used": self.num_rows,
                "left_out": {cause: counts.count for cause, counts in self.accounting.losses.items()},
            },
            "forms": dict(self.forms),
            "lengths": {
                unit: {role: summarise(counts) for role, counts in lengths.by_role.items()}
                for unit, lengths in self.lengths.items()
            },
            "length_bias": {
                unit: lengths.bias.as_dict()
                for unit, lengths in self.lengths.items()
                if lengths.bias.num_pairs or lengths.bias.num_ties
            },
            "turns": _by_key(self.turns),
            "responses": _by_key(self.responses),
            "labels": {"desirable": self.labels[True], "undesirable": self.labels[False]} if self.labels else None,
            "preferences": _by_key(self.preferences),
            "sources": dict(self.sources.most_common()),
            "languages": dict(self.languages.most_common()),
            "other_language": self.other_language if self.languages else None,
            "prompts": {
                "distinct": sum(per_prompt.values()),
                "most_rows": max(per_prompt, default=0),
                "distinct_words": self.words[0].share,
                "distinct_word_pairs": self.words[1].share,
            },
        }


def _by_key(counts: Mapping[Any, int]) -> dict[str, int]:
    return {str(key): counts[key] for key in sorted(counts)}


def collect_statistics(
    records: Iterable[Record], shape: Shape, units: Mapping[str, LengthOf] | None = None
) -> DataStatistics:
    """Return the statistics of records; for a notebook and for tests.

    Args:
        records: Rows that could be read.
        shape: Shape of the data.
        units: Unit → function that returns lengths. None: characters and words.
    """
    found = DataStatistics(shape)
    measures = UNITS if units is None else units
    for record in records:
        found.accounting.total += 1
        found.add(record, {unit: measure(record) for unit, measure in measures.items()})
    return found


UNITS: Mapping[str, LengthOf] = {"characters": count_characters, "words": count_words}
