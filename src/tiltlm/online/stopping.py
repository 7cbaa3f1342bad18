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
    best: int | None = None
    """The round whose policy is better than the last one, and is the one to keep."""


def find_stop(cards: Sequence[Card], settings: StopSettings, hours: float = 0.0) -> Stop | None:
    """Return why a loop ends after these rounds; None if it goes on.

    Args:
        cards: The cards of all rounds so far.
        settings: The limits.
        hours: What the rounds took.
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
    if settings.flops is not None and (flops := sum(card.flops for card in cards)) >= settings.flops:
        return Stop("flops", f"{flops:.3g} floating-point operations were spent, stop.flops={settings.flops:.3g}")
    if settings.cost is not None and (cost := sum(card.cost or 0.0 for card in cards)) >= settings.cost:
        return Stop("cost", f"the judge cost {cost:g}, stop.cost={settings.cost:g}")
    if settings.hours is not None and hours >= settings.hours:
        return Stop("hours", f"{hours:.2f} hours have passed, stop.hours={settings.hours:g}")
    if alarm := _alarm(cards, settings):
        return alarm
    recent = cards[-settings.empty_rounds :]
    if len(recent) == settings.empty_rounds and not any(card.num_examples for card in recent):
        causes = dict(last.dropped)
        return Stop(
            "empty_rounds",
            f"{len(recent)} rounds in a row gave no example ({causes}); look at the samples and at the judge's scores",
        )
    return None


def _alarm(cards: Sequence[Card], settings: StopSettings) -> Stop | None:
    """Return the first sign that the policy exploits its judge or loses its variety; None if there is none."""
    first, last = cards[0], cards[-1]
    if settings.length is not None and last.num_tokens > settings.length * first.num_tokens:
        grown = f"samples have {last.num_tokens:.1f} tokens, {first.num_tokens:.1f} in round 0"
        return Stop("length", f"{grown}, above stop.length={settings.length:g} times")
    silent = sum(last.dropped.values()) / last.num_prompts
    if settings.no_signal is not None and silent > settings.no_signal:
        found = f"{silent:.0%} of the prompts give no example ({dict(last.dropped)})"
        return Stop("no_signal", f"{found}, above stop.no_signal={settings.no_signal:g}")
    if settings.cut is not None and last.cut > settings.cut:
        return Stop("cut", f"{last.cut:.0%} of the samples have no end token, above stop.cut={settings.cut:g}")
    if settings.distinct_2 is not None and last.distinct_2 < settings.distinct_2 * first.distinct_2:
        alike = f"distinct-2 is {last.distinct_2:.2f}, {first.distinct_2:.2f} in round 0"
        return Stop("distinct_2", f"{alike}, below stop.distinct_2={settings.distinct_2:g} times")
    measured = [(card, card.held_out) for card in cards if card.held_out is not None]
    if settings.held_out_falls and measured:
        (best, highest), (_, now) = max(measured, key=lambda one: one[1].estimate), measured[-1]
        pleases = best.reward is None or last.reward is None or last.reward.estimate >= best.reward.estimate
        if now.high < highest.low and pleases:
            fallen = f"the held-out score fell from {highest.estimate:.3g} in round {best.round} to {now.estimate:.3g}"
            kept = f"the model is the policy of round {best.round}"
            return Stop(
                "held_out_falls", f"{fallen}, and the score of the judge that trains did not; {kept}", best.round
            )
    return None
