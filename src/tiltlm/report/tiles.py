"""Tiles: the few most important numbers, at the top of the page."""

from collections.abc import Sequence
from dataclasses import dataclass

from tiltlm.diagnostics import Interval
from tiltlm.report.numbers import bounds, estimate
from tiltlm.report.run_report import RunReport
from tiltlm.report.sections import GLOSSARY


@dataclass(frozen=True)
class Tile:
    """One number at the top of the page."""

    name: str
    value: str
    note: str
    """Its interval and the number of the untrained policy."""


def tiles(report: RunReport) -> list[Tile]:
    """Return at most about four numbers: those of a gold reward if there is one, otherwise those of held-out data."""
    shown: list[Tile] = []
    held_out = report.held_out
    if report.gold is not None:
        attainment = report.gold.attainment
        shown += [
            _tile(report.gold.label, attainment.policy, f"untrained {estimate(attainment.reference)}"),
            _tile("win rate against untrained", report.gold.win_rate, percent=True),
            _tile("of the attainable gain", attainment.share, percent=True),
            _tile("KL, nats per response", attainment.kl),
        ]
    elif held_out is not None:
        if held_out.nll is not None:
            before = f"untrained {estimate(held_out.nll.before)}"
            shown.append(_tile("held-out loss, nats per token", held_out.nll.after, before))
        if held_out.contrast is not None:
            shown.append(_tile("held-out ranking accuracy", held_out.contrast.accuracy.after, percent=True))
            shown.append(_tile("held-out margin", held_out.contrast.margin.after))
    if report.samples is not None:
        after = report.samples.after
        if after.kl is not None and report.gold is None:
            shown.append(_tile("KL, nats per response", after.kl))
        if len(shown) < 4:
            before = f"untrained {estimate(report.samples.before.length)}"
            shown.append(_tile("tokens per response", after.length, before))
    return shown


def words(shown: Sequence[Tile]) -> dict[str, str]:
    """Return the terms in the names of these tiles that a reader may not know, with their meaning."""
    names = " ".join(tile.name for tile in shown).lower()
    return {term: GLOSSARY[term] for term in ("Margin", "KL", "Nat") if term.lower() in names}


def _tile(name: str, interval: Interval, extra: str = "", *, percent: bool = False) -> Tile:
    inner = bounds(interval, percent=percent)
    return Tile(name, estimate(interval, percent=percent), ", ".join(part for part in (inner, extra) if part))
