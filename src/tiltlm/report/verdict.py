"""Did it help? One plain sentence from a run's numbers, and what a reader should be told before believing it.

A gold reward decides where there is one; else held-out data does. An interval that holds 0 is never called a success.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tiltlm.diagnostics import Interval
from tiltlm.diagnostics.attainment import MIN_EFFECTIVE_SAMPLES
from tiltlm.evaluation import Change, Contrast, Gold, HeldOut, SampleComparison
from tiltlm.report.numbers import estimate, format_number, share, with_bounds
from tiltlm.report.run_report import RunReport

Answer = Literal["better", "worse", "unclear", "unmeasured"]

FEW_PROMPTS = 50
LARGE_KL = 10.0
"""Nats per response beyond which a policy has little left of its reference."""

SIDES = {"pairs": ("chosen", "rejected"), "unpaired": ("desirable", "undesirable")}


@dataclass(frozen=True)
class Verdict:
    """The headline of a report."""

    outcome: Answer
    word: str
    """The outcome in a word or two."""
    sentence: str
    """With its numbers."""
    cautions: tuple[str, ...]
    """What stands against it, or limits it."""


def verdict_of(report: RunReport) -> Verdict:
    """The verdict of a run."""
    cautions = tuple(_cautions(report))
    if report.gold is not None:
        return _by_gold(report.gold, cautions)
    held_out = report.held_out
    if held_out is not None and held_out.nll is not None:
        return _by_nll(held_out, held_out.nll, cautions)
    if held_out is not None and held_out.contrast is not None:
        return _by_contrast(held_out, held_out.contrast, cautions)
    return Verdict(
        "unmeasured",
        "Not measured",
        "Whether training helped cannot be said: nothing that shows it was held out. Hold out some prompts "
        "(data.eval_fraction=0.1) and train again.",
        cautions,
    )


def direction(difference: Interval, *, less_is_better: bool = False) -> Answer:
    """What an interval of a difference shows: it excludes 0, on one side or the other, or it does not."""
    low, high = (-difference.high, -difference.low) if less_is_better else (difference.low, difference.high)
    return "better" if low > 0 else "worse" if high < 0 else "unclear"


def _by_gold(gold: Gold, cautions: tuple[str, ...]) -> Verdict:
    found, outcome = gold.attainment, direction(gold.attainment.gain)
    word = {"better": "Yes, it helped", "worse": "No, it did harm"}.get(outcome, "No clear difference")
    sentence = (
        f"On {gold.num_prompts:,} held-out prompts the {gold_name(gold)} went from {estimate(found.reference)} to "
        f"{estimate(found.policy)}, by {with_bounds(found.gain, signed=True)}; a trained response beats an untrained "
        f"one with probability {with_bounds(gold.win_rate, percent=True)}."
    )
    if outcome == "better":
        reached = with_bounds(found.share, percent=True)
        sentence += f" That is {reached} of the gain attainable at the KL it spent."
    return Verdict(outcome, word, sentence, cautions)


def attained(gold: Gold) -> str:
    """The share of what was possible, in words."""
    found = gold.attainment
    return (
        f"The policy spent a KL of {with_bounds(found.kl)} nats a response. At that KL at most "
        f"{with_bounds(found.attainable)} can be had; the policy has {with_bounds(found.policy)}, the untrained policy "
        f"{with_bounds(found.reference)}. That is {with_bounds(found.share, percent=True)} of the attainable gain."
    )


def gold_name(gold: Gold) -> str:
    """What the gold reward is called in a sentence."""
    return "gold reward" if gold.reward_name == "gold reward" else f"gold reward ({gold.reward_name})"


def _by_contrast(held_out: HeldOut, contrast: Contrast, cautions: tuple[str, ...]) -> Verdict:
    better, worse = SIDES[contrast.kind]
    ranking, margin = direction(contrast.accuracy.difference), direction(contrast.margin.difference)
    word = {"better": "Yes, it helped", "worse": "No, it did harm"}.get(ranking, "No clear difference")
    outcome = ranking
    if ranking == "better" and margin != "better":
        outcome, word = "unclear", "Partly"
    if ranking == "unclear" and margin == "better":
        word = "Partly"
    by_definition, learner = held_out.starts_at_reference, held_out.learner
    trained = with_bounds(contrast.accuracy.after, percent=True)
    untrained = "50 % by definition" if by_definition else estimate(contrast.accuracy.before, percent=True)
    margin_was = "" if by_definition else f" (untrained {estimate(contrast.margin.before)})"
    ranks = {
        "pairs": f"ranks the {better} response above the {worse} one in {trained} of comparisons, the untrained "
        f"{learner} in {untrained}",
        "unpaired": f"gives a {better} response more reward than an {worse} one with probability {trained}, the "
        f"untrained {learner} with {untrained}",
    }[contrast.kind]
    sentence = (
        f"On {held_out.num_prompts:,} held-out prompts the trained {learner} {ranks}; "
        f"the mean margin is {with_bounds(contrast.margin.after)}{margin_was}."
    )
    endings = {
        ("better", "unclear"): " Its mean margin did not clearly grow.",
        ("better", "worse"): " Its mean margin shrank.",
        ("unclear", "better"): " The margin grew; the ranking did not clearly improve.",
        ("unclear", "unclear"): f" {held_out.num_prompts:,} prompts are too few to tell the two apart.",
    }
    return Verdict(outcome, word, sentence + endings.get((ranking, margin), ""), cautions)


def _by_nll(held_out: HeldOut, nll: Change, cautions: tuple[str, ...]) -> Verdict:
    outcome = direction(nll.difference, less_is_better=True)
    word = {"better": "Yes, it helped", "worse": "No, it did harm"}.get(outcome, "No clear difference")
    sentence = (
        f"On {held_out.num_prompts:,} held-out prompts the negative log-likelihood of the demonstrated responses went "
        f"from {estimate(nll.before)} to {estimate(nll.after)} nats per token, by "
        f"{with_bounds(nll.difference, signed=True)}; lower is better."
    )
    return Verdict(outcome, word, sentence, cautions)


def _cautions(report: RunReport) -> Iterator[str]:
    if report.gold is not None:
        yield from _of_gold(report.gold)
    if report.held_out is not None:
        yield from _of_held_out(report.held_out)
    if report.samples is not None:
        yield from _of_samples(report.samples)


def _of_gold(gold: Gold) -> Iterator[str]:
    if gold.is_above_frontier:
        yield (
            "The policy lies above the frontier, where no policy can: reward or KL is measured wrongly, or the "
            "reference samples are too few."
        )
    worth = gold.attainment.effective_samples
    if worth < MIN_EFFECTIVE_SAMPLES:
        yield (
            f"At this KL the reference samples are worth only {format_number(worth, 0)} draws from the tilted policy "
            f"(below {MIN_EFFECTIVE_SAMPLES:.0f}): the share of the attainable gain is doubtful."
        )


def _of_held_out(held_out: HeldOut) -> Iterator[str]:
    if held_out.num_prompts < FEW_PROMPTS:
        yield f"Only {held_out.num_prompts} held-out prompts: intervals are wide, and percentile intervals too narrow."
    contrast = held_out.contrast
    if contrast is None:
        return
    better, worse = SIDES[contrast.kind]
    if contrast.is_displaced and contrast.better is not None and contrast.worse is not None:
        fell = contrast.displacement
        how_many = f" (in {share(fell.share_chosen_fell.estimate)} of prompts)" if fell is not None else ""
        yield (
            f"Displacement: the {better} responses themselves became less likely, by "
            f"{with_bounds(contrast.better.difference, signed=True)} nats per token{how_many}, the {worse} ones by "
            f"{with_bounds(contrast.worse.difference, signed=True)}. Probability went to responses that nobody "
            "compared: read samples before trusting the margin."
        )
    if held_out.nll is None and not contrast.length_advantage.low > 0:
        yield (
            f"A rule that only prefers the {contrast.length_rule} response is right in "
            f"{with_bounds(contrast.length_accuracy, percent=True)}; the {held_out.learner} is not clearly better than "
            "that, and may have learned little more than length."
        )
    if contrast.ties > 0.01:
        yield f"{share(contrast.ties)} of comparisons are ties of equal reward; they count one half."


def _of_samples(samples: SampleComparison) -> Iterator[str]:
    if samples.after.kl is not None and samples.after.kl.estimate > LARGE_KL:
        yield (
            f"The policy moved far: {with_bounds(samples.after.kl)} nats of KL a response. What it gained may not hold "
            "for what the data does not cover; a lower learning rate or a larger beta keeps it closer."
        )
    if samples.after.cut_share > 0.05:
        yield (
            f"{share(samples.after.cut_share)} of samples were cut at {samples.max_new_tokens} tokens, so their KL and "
            "length are lower bounds."
        )
    shift = samples.length_difference
    ratio = samples.after.length.estimate / samples.before.length.estimate
    if not 0.8 <= ratio <= 1.25 and direction(shift) != "unclear":
        yield (
            f"Responses became {'longer' if ratio > 1 else 'shorter'}: {estimate(samples.before.length)} → "
            f"{estimate(samples.after.length)} tokens."
        )
