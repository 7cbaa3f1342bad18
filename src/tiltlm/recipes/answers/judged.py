"""What a judge said about some data, as a notebook and a terminal look at it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tiltlm.core import ConfigError

if TYPE_CHECKING:
    import pandas as pd

STATUS = {
    "ok": "decided",
    "tie": "ties",
    "inconsistent": "inconsistent: the two orders contradict each other",
    "both_bad": "both responses bad",
    "scored": "scored",
    "error": "errors",
}
"""Status of a judgement, and how it is printed."""


@dataclass(frozen=True)
class Estimate:
    """What judging some data would cost."""

    judge: str
    num_judgements: int
    num_calls: int
    """Judgements that are not in the cache."""
    num_tokens: int
    """Tokens of these calls, at four characters a token."""
    cost: float | None
    """In the currency of the price file; None if the price is not known."""

    def summary(self) -> str:
        """Return what the command line prints."""
        cost = "unknown: the price file does not name this judge" if self.cost is None else f"{self.cost:.4g}"
        return (
            f"{self.judge} would be asked {self.num_calls:,} times; {self.num_judgements - self.num_calls:,} of "
            f"{self.num_judgements:,} judgements are known\n\n"
            f"tokens  about {self.num_tokens:,}\ncost    {cost}\nNothing was judged and nothing was written."
        )


@dataclass(frozen=True, repr=False)
class Judged:
    """Data with judgements."""

    judge: str
    """Name of the judge."""
    digest: str
    path: Path
    """The file with the judgements."""
    rows: tuple[Mapping[str, Any], ...]
    """The rows of that file."""
    judgements: tuple[Mapping[str, Any], ...]
    """One entry for each response that was scored, or each pair that was compared."""
    counts: Mapping[str, int]
    """Status → judgements."""
    num_calls: int
    """Judgements that were made; the others were known."""
    cost: float | None
    """None if the price is not known."""
    num_dropped: int
    """Rows that could not be used."""
    dropped_path: Path | None = None
    """The file with these rows; None if there are none."""
    notes: tuple[str, ...] = field(default=())
    """What the user must know about the result."""

    def to_pandas(self) -> pd.DataFrame:
        """Return the judgements as a table."""
        import pandas as pd

        return pd.DataFrame(list(self.judgements))

    def __repr__(self) -> str:
        found = ", ".join(f"{count} {name}" for name, count in self.counts.items() if count)
        return f"Judged: {len(self.rows)} rows by {self.judge} ({found}), in {self.path}"

    def _repr_html_(self) -> str:
        """Return the first judgements as a table for a notebook."""
        return f"<p>{escape(repr(self))}</p>{self.to_pandas().head(10).to_html(index=False)}"

    def summary(self) -> str:
        """Return what the command line prints at the end."""
        total = sum(self.counts.values())
        lines = [f"{total:,} judgements by {self.judge}; {self.num_calls:,} were made, the others were known", ""]
        lines += [f"{count:>7,}  {STATUS[name]}" for name, count in self.counts.items() if count]
        lines += [f"- {note}" for note in self.notes]
        lines += ["", f"rows     {self.path}  ({len(self.rows):,})"]
        if self.dropped_path is not None:
            lines.append(f"dropped  {self.dropped_path}  ({self.num_dropped:,})")
        if self.cost != 0:
            lines.append(f"cost     {'unknown' if self.cost is None else f'{self.cost:.4g}'}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Pairing:
    """Which pairs of a list of responses are compared."""

    rule: str
    """`all`, `random` or `best_worst`."""
    num: int = 0
    """Pairs of each list under `random`."""

    @classmethod
    def of(cls, text: str) -> Pairing:
        """Read `all`, `random:K` or `best_worst`.

        Raises:
            ConfigError: It is none of these.
        """
        rule, colon, num = text.partition(":")
        if rule == "random" and num.isdigit() and int(num) > 0:
            return cls(rule, int(num))
        if rule in ("all", "best_worst") and not colon:
            return cls(rule)
        raise ConfigError(
            f"--comparisons is {text!r}; it must be all, random:K with K at least 1, or best_worst",
            code="unknown_name",
            key="--comparisons",
        )

    def choose(self, prompt: Any, responses: Sequence[str], seed: int) -> list[tuple[int, int]]:
        """Return which responses to a prompt are compared under `all` and `random`; equal texts never are.

        Args:
            prompt: Text or turns. With the responses it decides what is random.
            responses: The responses.
            seed: Seed of random pairs.
        """
        pairs = [(i, j) for i, j in combinations(range(len(responses)), 2) if responses[i] != responses[j]]
        if self.rule != "random":
            return pairs
        content = json.dumps([seed, prompt, responses], default=str)
        rng = np.random.default_rng(list(hashlib.sha256(content.encode("utf-8", "surrogatepass")).digest()))
        chosen = rng.permutation(len(pairs))[: self.num]
        return [pairs[k] for k in sorted(chosen)]
