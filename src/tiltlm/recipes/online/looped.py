"""A finished loop, as a terminal and a notebook look at it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiltlm.online.stopping import Stop

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "tiltlm.loop/1"


@dataclass(frozen=True, repr=False)
class LoopedRun:
    """The rounds of a loop."""

    path: Path
    """The run directory, with `rounds/` and `model/`."""
    preset: str
    cards: tuple[Mapping[str, Any], ...]
    """The card of each round, as plain values."""
    stop: Stop

    def as_dict(self) -> dict[str, Any]:
        """Return what loop.json holds."""
        return {
            "schema": SCHEMA,
            "preset": self.preset,
            "stop": {"rule": self.stop.rule, "text": self.stop.text},
            "rounds": [dict(card) for card in self.cards],
        }

    def to_pandas(self) -> pd.DataFrame:
        """Return a table with one row a round."""
        import pandas as pd

        return pd.DataFrame([_flat(card) for card in self.cards]).set_index("round")

    def __repr__(self) -> str:
        lines = [f"LoopedRun: {len(self.cards)} rounds, {self.stop.text}"]
        for name, unit in (("reward", ""), ("kl", " nats")):
            first, last = (card[name] for card in (self.cards[0], self.cards[-1]))
            if first is not None and last is not None:
                lines.append(f"  {name} {first['estimate']:.3g} → {last['estimate']:.3g}{unit}")
        return "\n".join([*lines, f"  model in {self.path / 'model'}"])

    def summary(self) -> str:
        """Return what the command line prints at the end."""
        head = f"{'round':>5}  {'reward':>22}  {'KL, nats':>22}  {'tokens':>6}  {'examples':>8}  {'loss':>7}"
        rows = [
            f"{card['round']:>5}  {_shown(card['reward']):>22}  {_shown(card['kl']):>22}  {card['num_tokens']:>6.1f}  "
            f"{card['num_examples']:>8}  {math.nan if card['loss'] is None else card['loss']:>7.4f}"
            for card in _some(self.cards)
        ]
        end = f"\n{self.stop.text[0].upper()}{self.stop.text[1:]}.\n\nmodel   {self.path / 'model'}"
        return "\n".join([head, *rows, end])


def _some(cards: tuple[Mapping[str, Any], ...], most: int = 12) -> list[Mapping[str, Any]]:
    """Return evenly chosen cards, with the first and the last."""
    if len(cards) <= most:
        return list(cards)
    places = sorted({round(k * (len(cards) - 1) / (most - 1)) for k in range(most)})
    return [cards[place] for place in places]


def _shown(interval: Mapping[str, float] | None) -> str:
    if interval is None:
        return "–"
    return f"{interval['estimate']:.2f} ({interval['low']:.2f} to {interval['high']:.2f})"


def _flat(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return a card with its intervals as three columns."""
    flat: dict[str, Any] = {}
    for name, value in card.items():
        if name in ("reward", "kl"):
            for end in ("estimate", "low", "high"):
                flat[name if end == "estimate" else f"{name}_{end}"] = math.nan if value is None else value[end]
        elif not isinstance(value, Mapping):
            flat[name] = value
    return flat
