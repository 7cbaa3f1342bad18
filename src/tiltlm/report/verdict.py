"""The verdict of a run: one plain sentence on whether training helped, and the cautions that limit it.

A gold reward decides if there is one; otherwise held-out data does. If an interval contains 0, the verdict is not
"better".
"""

from dataclasses import dataclass
from typing import Literal

from tiltlm.diagnostics import Interval
from tiltlm.evaluation import Change, Contrast, Gold, HeldOut
from tiltlm.report.numbers import estimate, with_bounds
from tiltlm.report.run_report import RunReport
from tiltlm.report.sections import SECTIONS, Remark

Outcome = Literal["better", "worse", "unclear", "unmeasured"]

WORDS = {"better": "Yes, it helped", "worse": "No, it did harm", "unclear": "No clear difference"}


@dataclass(frozen=True)
class Verdict:
    """The headline of a report."""

    outcome: Outcome
    word: str
    """The outcome in a few words."""
    sentence: str
    """The outcome with its numbers."""
    cautions: tuple[Remark, ...]
    """Remarks that limit or contradict the verdict."""


def verdict_of(report: RunReport) -> Verdict:
    """Return the verdict of a run."""
    cautions = tuple(caution for section in SECTIONS for caution in section.cautions_of(report))
    if report.gold is not None:
        return _by_gold(report.gold, cautions)
    held_out = report.held_out
    if held_out is not None and held_out.nll is not None:
        return _by_nll(held_out, held_out.nll, cautions)
    if held_out is not None and held_out.contrast is not None:
        return _by_contrast(held_out, held_out.contrast, cautions)
    cause = (
        f"because the trained policy could not be measured: {report.failure}. Train again with a smaller "
        "training.learning_rate."
        if report.failure
        else "because no data that shows it was held out. Hold out some prompts (data.eval_fraction=0.1) and train "
        "again."
    )
    return Verdict("unmeasured", "Not measured", f"It is not known whether training helped, {cause}", cautions)


def direction(difference: Interval, *, less_is_better: bool = False) -> Outcome:
    """Return what the interval of a difference shows; `unclear` if it contains 0 or is unknown."""
    low, high = (-difference.high, -difference.low) if less_is_better else (difference.low, difference.high)
    return "better" if low > 0 else "worse" if high < 0 else "unclear"


def _by_gold(gold: Gold, cautions: tuple[Remark, ...]) -> Verdict:
    found, outcome = gold.attainment, direction(gold.attainment.gain)
    sentence = (
        f"On {gold.num_prompts:,} held-out prompts the {gold.label} went from {estimate(found.reference)} to "
        f"{estimate(found.policy)}, a change of {with_bounds(found.gain, signed=True)}. A response of the trained "
        f"policy beats one of the untrained policy with probability {with_bounds(gold.win_rate, percent=True)}."
    )
    if outcome == "better":
        sentence += f" The gain is {with_bounds(found.share, percent=True)} of what is attainable at the same KL."
    return Verdict(outcome, WORDS[outcome], sentence, cautions)


def _by_contrast(held_out: HeldOut, contrast: Contrast, cautions: tuple[Remark, ...]) -> Verdict:
    better, worse = contrast.sides
    ranking, margin = direction(contrast.accuracy.difference), direction(contrast.margin.difference)
    outcome, word = ranking, WORDS[ranking]
    if ranking == "better" and margin != "better":
        outcome, word = "unclear", "Partly"
    if ranking == "unclear" and margin == "better":
        word = "Partly"
    by_definition, learner = held_out.starts_at_reference, held_out.learner
    trained = with_bounds(contrast.accuracy.after, percent=True)
    untrained = "50 % by definition" if by_definition else estimate(contrast.accuracy.before, percent=True)
    margin_before = "" if by_definition else f" (untrained {estimate(contrast.margin.before)})"
    ranks = {
        "pairs": f"ranks the {better} response above the {worse} one in {trained} of comparisons, the untrained "
        f"{learner} in {untrained}",
        "unpaired": f"gives a {better} response a higher reward than an {worse} one with probability {trained}, the "
        f"untrained {learner} with {untrained}",
    }[contrast.kind]
    sentence = (
        f"On {held_out.num_prompts:,} held-out prompts the trained {learner} {ranks}. "
        f"The mean margin is {with_bounds(contrast.margin.after)}{margin_before}."
    )
    endings = {
        ("better", "unclear"): " The mean margin did not clearly grow.",
        ("better", "worse"): " The mean margin became smaller.",
        ("unclear", "better"): " The mean margin grew, but the ranking did not clearly improve.",
        ("unclear", "unclear"): f" {held_out.num_prompts:,} prompts are too few to show a difference.",
    }
    return Verdict(outcome, word, sentence + endings.get((ranking, margin), ""), cautions)


def _by_nll(held_out: HeldOut, nll: Change, cautions: tuple[Remark, ...]) -> Verdict:
    outcome = direction(nll.difference, less_is_better=True)
    sentence = (
        f"On {held_out.num_prompts:,} held-out prompts the negative log-likelihood of the demonstrated responses went "
        f"from {estimate(nll.before)} to {estimate(nll.after)} nats per token, a change of "
        f"{with_bounds(nll.difference, signed=True)}; lower is better."
    )
    return Verdict(outcome, WORDS[outcome], sentence, cautions)
