"""An audited judge, as a notebook and a terminal look at it."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from tiltlm.diagnostics.judges import JudgeAudit
from tiltlm.report.answers.audit import numbers_of, sentences_of
from tiltlm.report.numbers import with_bounds

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class AuditedJudge:
    """What an audit found, and where it was written."""

    audit: JudgeAudit
    scale: float | None
    """Difference of scores, or of logits, that is one nat of preference; None if there is none."""
    path: Path
    """The JSON file: `judge.audit` names it."""
    page: Path
    num_calls: int
    cost: float | None
    """None if the price is not known."""

    def to_pandas(self) -> pd.DataFrame:
        """Return all numbers as a table: estimate and ends of the interval."""
        import pandas as pd

        rows = [
            {"number": n.key, "estimate": i.estimate, "low": i.low, "high": i.high, "n": i.n}
            for n in numbers_of(self.audit)
            if (i := n.interval) is not None
        ]
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        return (
            f"AuditedJudge: {self.audit.judge} agrees with {with_bounds(self.audit.accuracy, percent=True)} of "
            f"{self.audit.num_pairs} labels, κ {with_bounds(self.audit.kappa)}, in {self.path}"
        )

    def _repr_html_(self) -> str:
        """Return the numbers as a table for a notebook."""
        return f"<p>{escape(repr(self))}</p>{self.to_pandas().to_html(index=False)}"

    def summary(self) -> str:
        """Return what the command line prints."""
        head, *rest = sentences_of(self.audit)
        width = max(len(n.name) for n in numbers_of(self.audit))
        lines = [head, "", *rest, *(f"- {note}" for note in self.audit.notes), ""]
        for n in numbers_of(self.audit):
            if n.interval is not None:
                lines.append(f"{n.name.ljust(width)}  {with_bounds(n.interval, percent=n.percent)}")
        lines += ["", f"audit  {self.path}", f"page   {self.page}"]
        if self.cost != 0:
            lines.append(f"cost   {'unknown' if self.cost is None else f'{self.cost:.4g}'}")
        return "\n".join(lines)
