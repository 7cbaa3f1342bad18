"""A finished loop, as a terminal and a notebook look at it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import escape

from tiltlm.diagnostics import Interval
from tiltlm.online.cards import INTERVALS, ONLY_LEARNED, Card
from tiltlm.online.stopping import Stop
from tiltlm.report.numbers import with_bounds
from tiltlm.report.studies.rounds import num_skipped, some_rounds
from tiltlm.report.verdict import skipped_steps

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class LoopedRun:
    """The rounds of a loop."""

    path: Path
    """The run directory, with `rounds/` and `model/`."""
    preset: str
    cards: tuple[Card, ...]
    """The card of each round."""
    stop: Stop

    def to_pandas(self) -> pd.DataFrame:
        """Return a table with one row a round."""
        import pandas as pd

        return pd.DataFrame([_flat(card.as_dict()) for card in self.cards]).set_index("round")

    def __repr__(self) -> str:
        lines = [f"LoopedRun: {self.preset or 'no preset'}, {len(self.cards)} rounds, {self.stop.text}"]
        for name, unit in (("reward", ""), ("held_out", ""), ("kl", " nats")):
            first, last = (getattr(card, name) for card in (self.cards[0], self.cards[-1]))
            if first is not None and last is not None:
                lines.append(f"  {name} {first.estimate:.3g} → {last.estimate:.3g}{unit}")
        return "\n".join([*lines, f"  loop.html and model/ in {self.path}"])

    def _repr_html_(self) -> str:
        """Return the page for a notebook, in a frame, so that its style stays its own."""
        page = escape((self.path / "loop.html").read_text(encoding="utf-8"))
        return f'<iframe srcdoc="{page}" style="width: 100%; height: 640px; border: 0"></iframe>'

    def summary(self) -> str:
        """Return what the command line prints at the end."""
        head = f"{'round':>5}  {'reward':>22}  {'KL, nats':>22}  {'tokens':>6}  {'examples':>8}  {'loss':>7}"
        rows = [
            f"{card.round:>5}  {_shown(card.reward):>22}  {_shown(card.kl, 2):>22}  {card.num_tokens:>6.1f}  "
            f"{card.num_examples:>8}  {math.nan if card.loss is None else card.loss:>7.4f}"
            for card in some_rounds(self.cards)
        ]
        end = f"\n{self.stop.text[0].upper()}{self.stop.text[1:]}.\n"
        end += "".join(f"- {remark.text}\n" for remark in skipped_steps(num_skipped(self.path)))
        end += f"\nreport  {self.path / 'loop.html'}\nmodel   {self.path / 'model'}"
        return "\n".join([head, *rows, end])


def _shown(interval: Interval | None, decimals: int | None = None) -> str:
    return "–" if interval is None else with_bounds(interval, decimals=decimals)


def _flat(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return a card with its intervals as three columns."""
    flat: dict[str, Any] = {}
    for name, value in card.items():
        if name in ONLY_LEARNED and value is None:
            continue
        if name in INTERVALS:
            for end in ("estimate", "low", "high"):
                flat[name if end == "estimate" else f"{name}_{end}"] = math.nan if value is None else value[end]
        elif not isinstance(value, Mapping):
            flat[name] = value
    return flat
