"""Checked data, as a notebook and a terminal look at it."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiltlm.report.data.check_report import CheckReport, as_plain, sentences_of
from tiltlm.report.numbers import share

if TYPE_CHECKING:
    import pandas as pd

    from tiltlm.data.quality.rules import Finding
    from tiltlm.recipes.data.cleaning import Cleaned


@dataclass(frozen=True, repr=False)
class CheckedData:
    """What a check found, and what it wrote."""

    report: CheckReport
    page: Path | None = None
    """The page; None: none was asked for."""
    cleaned: Cleaned | None = None
    """The cleaned copy; None: none was asked for."""
    prints_json: bool = False
    """True: the command line prints JSON in place of the table."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All findings, the most serious first."""
        return self.report.findings

    @property
    def exit_code(self) -> int:
        """1 if there is an error, else 0: what the command line ends with."""
        return int(self.report.has_errors)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, as `--json` prints it."""
        written: dict[str, Any] = {}
        if self.page is not None:
            written["page"] = str(self.page)
        if self.cleaned is not None:
            written["cleaned"] = self.cleaned.to_dict()
        return {**as_plain(self.report), **written}

    def to_pandas(self) -> pd.DataFrame:
        """Return the findings as a table."""
        import pandas as pd

        names = ("code", "key", "level", "count", "of", "rate", "unit", "cause", "fix")
        plain = as_plain(self.report)["findings"]
        return pd.DataFrame([{name: finding[name] for name in names} for finding in plain], columns=list(names))

    def __repr__(self) -> str:
        counts = ", ".join(f"{f.rule.code} {f.rule.key} × {f.count:,}" for f in self.findings) or "nothing found"
        return f"CheckedData: {self.report.num_kept:,} of {self.report.num_rows:,} rows can be trained on; {counts}"

    def _repr_html_(self) -> str:
        """Return the findings as a table for a notebook."""
        return f"<p>{escape(' '.join(sentences_of(self.report)))}</p>{self.to_pandas().to_html(index=False)}"

    def summary(self) -> str:
        """Return the findings as text, one line each, then numbers and files."""
        lines = [*sentences_of(self.report), ""]
        for finding in self.findings:
            rule = finding.rule
            counted = f"{finding.count:,} of {finding.of:,} {rule.unit} ({share(finding.rate)})"
            lines.append(f"{rule.level:<7} {rule.code} {rule.key}: {counted}: {rule.cause}")
        return "\n".join([*lines, *self.closing()])

    def closing(self) -> list[str]:
        """Return the lines below the table: notes, numbers, and what was written."""
        lines = [f"- {note}" for note in self.report.notes]
        width = max((len(n.name) for n in self.report.numbers), default=0)
        lines += ["", *(f"{n.name.ljust(width)}  {n.text}" for n in self.report.numbers)]
        if self.page is not None:
            lines += ["", f"page     {self.page}"]
        if self.cleaned is not None:
            lines += [f"cleaned  {self.cleaned.path} ({self.cleaned.num_kept:,} rows)"]
            lines += [f"left out {self.cleaned.left_out_path} ({self.cleaned.num_left_out:,} rows)"]
        return lines
