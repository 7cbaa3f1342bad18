"""Stop rules: when a loop ends before its last round, and why."""

from collections.abc import Sequence
from dataclasses import dataclass

from tiltlm.online.cards import Card
from tiltlm.online.loop_settings import StopSettings


@dataclass(frozen=True)
class Stop:
    """Why a loop ended."""

    rule: str
    """Name of the setting of `stop`; `rounds` if all rounds are done."""
    text: str


def find_stop(cards: Sequence[Card], settings: StopSettings) -> Stop | None:
    """Return why a loop ends after these rounds; None if it goes on.

    Args:
        cards: The cards of all rounds so far.
        settings: The limits.
    """
    if not cards:
        return None
    last = cards[-1]
    if settings.kl is not None and last.kl is not None and last.kl.estimate > settings.kl:
        found = f"the KL to the policy before the first round is {last.kl.estimate:.2f} nats"
        return Stop("kl", f"{found}, above stop.kl={settings.kl:g}")
    for name in ("sampled_tokens", "judgements"):
        limit, spent = getattr(settings, name), sum(getattr(card, name) for card in cards)
        if limit is not None and spent >= limit:
            return Stop(name, f"{name.replace('_', ' ')}: {spent:,} spent, stop.{name}={limit:,}")
    recent = cards[-settings.empty_rounds :]
    if len(recent) == settings.empty_rounds and not any(card.num_examples for card in recent):
        causes = dict(last.dropped)
        return Stop(
            "empty_rounds",
            f"{len(recent)} rounds in a row gave no example ({causes}); look at the samples and at the judge's scores",
        )
    return None
