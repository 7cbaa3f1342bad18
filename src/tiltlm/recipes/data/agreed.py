"""What is known about the agreement of annotators, as a notebook and a terminal look at it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiltlm.data.labels import Agreement
from tiltlm.report.numbers import format_number, share, with_bounds
from tiltlm.storage.files import finite_json

if TYPE_CHECKING:
    import pandas as pd

    from tiltlm.estimates.intervals import Interval


@dataclass(frozen=True, repr=False)
class Agreed:
    """The agreement of annotators, and the labels that were made of their votes."""

    agreement: Agreement
    account: Mapping[str, Any] | None = None
    """How the labels were made; None if none were asked for."""
    labels: Path | None = None
    """The file of the labels."""
    account_path: Path | None = None

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per annotator."""
        import pandas as pd

        return pd.DataFrame([self._row(one) for one in self.agreement.annotators])

    @staticmethod
    def _row(one: Any) -> dict[str, Any]:
        def of(interval: Interval | None) -> float | None:
            return None if interval is None else interval.estimate

        intervals = ("others", "left", "consistency")
        return {k: of(v) if k in intervals else v for k, v in vars(one).items()}

    def as_dict(self) -> dict[str, Any]:
        """Return all numbers as plain values for JSON."""
        plain = asdict(self.agreement)
        plain["notes"] = {str(note.code): str(note) for note in self.agreement.notes}
        plain["per_item"] = {str(k): n for k, n in self.agreement.per_item.items()}
        if self.account is not None:
            plain["labels"] = dict(self.account)
        found: dict[str, Any] = finite_json(plain)
        return found

    def __repr__(self) -> str:
        found = self.agreement
        return f"Agreed: {len(found.annotators)} annotators, {found.num_votes} votes, α {_alpha(found)}"

    def _repr_html_(self) -> str:
        """Return the annotators as a table for a notebook."""
        return f"<p>{escape(repr(self))}</p>{self.to_pandas().to_html(index=False)}"

    def summary(self) -> str:
        """Return what the command line prints."""
        found = self.agreement
        lines = [
            f"{len(found.annotators)} annotators gave {found.num_votes:,} votes on {found.num_items:,} items: "
            f"Krippendorff's α {_alpha(found)}",
            "",
        ]
        rows = [
            ("items with two or more votes", f"{found.num_shared:,} of {found.num_items:,}"),
            ("raw agreement", _percent(found.raw)),
            ("Cohen's κ", with_bounds(found.kappa) if found.kappa else ""),
            ("items with a majority", "" if found.majority is None else share(found.majority)),
            ("votes for the left side", _side(found.left, found.left_p)),
            ("equal when repeated", _percent(found.consistency)),
            ("both answers bad", f"{found.num_both_bad:,}" if found.num_both_bad else ""),
            ("skipped", f"{found.num_skips:,}" if found.num_skips else ""),
        ]
        width = max(len(name) for name, _ in rows)
        lines += [f"{name.ljust(width)}  {text}" for name, text in rows if text]
        lines += ["", *table_lines(found), *(f"- {note}" for note in found.notes)]
        if self.account is not None:
            lines += ["", *self._label_lines()]
        return "\n".join(lines)

    def _label_lines(self) -> list[str]:
        account = self.account
        assert account is not None
        lines = []
        if "noise" in account:
            noise = account["noise"]
            lines.append(
                f"expected share of wrong labels {share(noise['estimate'])} ({share(noise['low'])} to "
                f"{share(noise['high'])}), if annotators err independently"
            )
        left_out = ", ".join(f"{cause} {n:,}" for cause, n in account["left_out"].items())
        lines.append(
            f"labels   {self.labels}: {account['labels']:,} pairs by the rule {account['rule']}, "
            f"{account['undecided']:,} of them undecided, {account['single_vote']:,} with a single vote"
            + (f"; left out: {left_out}" if left_out else "")
        )
        lines.append(f"account  {self.account_path}")
        return lines


def _alpha(found: Agreement) -> str:
    if found.alpha is not None:
        return with_bounds(found.alpha)
    return "is undefined" if found.num_shared else "cannot be measured"


def _percent(interval: Interval | None) -> str:
    return "" if interval is None else with_bounds(interval, percent=True)


def _side(interval: Interval | None, p: float | None) -> str:
    return "" if interval is None or p is None else f"{with_bounds(interval, percent=True)}, p = {p:.2g}"


def table_lines(found: Agreement) -> list[str]:
    """Return one line per annotator, those who agree least with the others first."""
    heads = ["annotator", "votes", "as the others", "ties", "left side", "repeats", "α without", "labels changed"]
    order = sorted(found.annotators, key=lambda one: (one.others.estimate if one.others else 2, one.annotator))
    rows = [
        [
            one.annotator if len(one.annotator) <= 24 else f"{one.annotator[:23]}…",
            f"{one.num_votes:,}",
            _percent(one.others) or "–",
            share(one.ties),
            _side(one.left, one.left_p) or "–",
            _percent(one.consistency) or "–",
            format_number(one.alpha_without, 2),
            f"{one.labels_changed:,}",
        ]
        for one in order
    ]
    shown = [k for k in range(len(heads)) if k in (0, 1) or any(row[k] != "–" for row in rows)]
    widths = {k: max(len(heads[k]), *(len(row[k]) for row in rows)) for k in shown}
    return ["  ".join(row[k].ljust(widths[k]) for k in shown).rstrip() for row in (heads, *rows)]
