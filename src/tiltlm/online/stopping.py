"""Stop rules: when a loop ends before its last round, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tiltlm.online.loop_settings import StopSettings


@dataclass(frozen=True)
class Stop:
    """Why a loop ended."""

    rule: str
    """Name of the setting of `stop`; `rounds` if all rounds are done."""
    text: str


def find_stop(cards: Sequence[Mapping[str, Any]], settings: StopSettings) -> Stop | None:
    """Return why a loop ends after these rounds; None if it goes on.

    Args:
        cards: The cards of all rounds so far, as plain values.
        settings: The limits.
    """
    if not cards:
        return None
    last = cards[-1]
    kl = None if last["kl"] is None else last["kl"]["estimate"]
    if settings.kl is not None and kl is not None and kl > settings.kl:
        return Stop(
            "kl", f"the KL to the policy before the first round is {kl:.2f} nats, above stop.kl={settings.kl:g}"
        )
    for name in ("sampled_tokens", "judgements"):
        limit, spent = getattr(settings, name), sum(card[name] for card in cards)
        if limit is not None and spent >= limit:
            return Stop(name, f"{name.replace('_', ' ')}: {spent:,} spent, stop.{name}={limit:,}")
    recent = cards[-settings.empty_rounds :]
    if len(recent) == settings.empty_rounds and not any(card["num_examples"] for card in recent):
        causes = dict(last["dropped"])
        return Stop(
            "empty_rounds",
            f"{len(recent)} rounds in a row gave no example ({causes}); look at the samples and at the judge's scores",
        )
    return None
