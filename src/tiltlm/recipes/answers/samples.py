"""The answers of one call, as a notebook and a terminal look at them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tiltlm.data.accounting import excerpt
from tiltlm.sampling.answers import AnswerRow
from tiltlm.sampling.diversity import Diversity, diversity_of

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = {
    "num_answers": "answers",
    "distinct_1": "distinct-1",
    "distinct_2": "distinct-2",
    "distance": "distance",
    "duplicates": "duplicates",
    "entropy": "nats a token",
    "cut": "cut",
}
"""Fields of `Diversity` in the table, and their titles."""
SHOWN = 3
"""Prompts whose first answer is printed."""


@dataclass(frozen=True, repr=False)
class Samples:
    """Answers of a model."""

    rows: tuple[AnswerRow, ...]
    """One row for each prompt and temperature, prompt by prompt."""
    path: Path | None = None
    """The file they were written to; None: they are only in memory."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Answers that a server did not give in a usable form, by cause."""

    @property
    def texts(self) -> list[list[str]]:
        """The answers of each row as texts."""
        return [list(row.answers) for row in self.rows]

    @cached_property
    def diversity(self) -> dict[float | None, Diversity]:
        """How different the answers to one prompt are, for each temperature."""
        temperatures = dict.fromkeys(row.temperature for row in self.rows)
        return {t: diversity_of([row for row in self.rows if row.temperature == t]) for t in temperatures}

    def to_pandas(self) -> pd.DataFrame:
        """Return a table with one row an answer."""
        import pandas as pd

        return pd.DataFrame(
            {
                "id": row.id,
                "prompt": row.prompt,
                "temperature": row.temperature,
                "index": i,
                "answer": answer,
                "ended": row.ended[i],
                "num_tokens": None if row.token_ids is None else len(row.token_ids[i]),
                "logp": None if row.logps is None else row.logps[i],
                "behaviour_logp": None if row.behaviour_logps is None else row.behaviour_logps[i],
                **row.row,
            }
            for row in self.rows
            for i, answer in enumerate(row.answers)
        )

    def diversity_table(self) -> pd.DataFrame:
        """Return the diversity, one row a temperature."""
        import pandas as pd

        return pd.DataFrame([{"temperature": t, **asdict(found)} for t, found in self.diversity.items()])

    def __repr__(self) -> str:
        num = sum(len(row.answers) for row in self.rows)
        where = "in memory" if self.path is None else f"in {self.path}"
        model = self.rows[0].model if self.rows else ""
        return f"Samples: {num} answers of {model} to {len({row.id for row in self.rows})} prompts, {where}"

    def _repr_html_(self) -> str:
        """Return the first answers as a table for a notebook."""
        return f"<p>{self!r}</p>{self.to_pandas().head(10).to_html(index=False)}"

    def summary(self) -> str:
        """Return what the command line prints at the end: diversity, some answers, where the file is."""
        lines = [repr(self), "", *self._diversity_lines(), ""]
        for row in self.rows[:SHOWN]:
            prompt = row.prompt if isinstance(row.prompt, str) else row.prompt[-1]["content"]
            lines += [f"{excerpt(prompt)}", f"  → {excerpt(row.answers[0], 100)}"]
        if self.path is not None:
            lines += ["", f"answers  {self.path}"]
        return "\n".join(lines)

    def _diversity_lines(self) -> list[str]:
        """Return the table of diversity as lines of text."""
        table = [["temperature", *COLUMNS.values()]]
        for temperature, found in self.diversity.items():
            values = [getattr(found, name) for name in COLUMNS]
            table.append([_text(temperature), *(_text(value) for value in values)])
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        return ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in table]


def _text(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.3g}"
