"""The verdict of a run: one plain sentence on whether training helped, and the cautions that limit it.

A gold reward decides if there is one; otherwise held-out data does. If an interval contains 0, the verdict is not
"better". A policy that hardly moved is not "better" either, whatever its accuracy: a reward that starts at 0 everywhere
(a log-ratio to the policy itself) orders the pairs after the first step, however small that step is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import log
from typing import Literal

from tiltlm.diagnostics import Interval
from tiltlm.evaluation import Change, Contrast, Gold, HeldOut
from tiltlm.report.numbers import estimate, with_bounds
from tiltlm.report.run_report import RunReport
from tiltlm.report.sections import SECTIONS, Remark

Outcome = Literal["better", "worse", "unclear", "unmeasured"]

WORDS = {"better": "Yes", "worse": "No, it does worse", "unclear": "No clear difference"}

SMALL_SHIFT = 0.1
"""Nats per response. A policy whose log-probabilities changed by less on average has hardly moved: its probabilities of
the held-out responses changed by less than a tenth of themselves."""
SMALL_GAIN = 0.01
"""Nats per comparison of label loss, of the log 2 that guessing costs. A smaller gain is called small."""


@dataclass(frozen=True)
class Verdict:
    """The headline of a report."""

    question: str
    """What was measured, as a question. `word` answers it."""
    outcome: Outcome
    word: str
    """The outcome in a few words."""
    sentence: str
    """The outcome with its numbers."""
    cautions: tuple[Remark, ...]
    """Remarks that limit or contradict the verdict."""

    @property
    def colour(self) -> str:
        """The outcome as a class of the page. A good outcome with cautions has a colour of its own."""
        return "cautious" if self.outcome == "better" and self.cautions else self.outcome


def verdict_of(report: RunReport) -> Verdict:
    """Return the verdict of a run."""
    of_sections = (caution for section in SECTIONS for caution in section.cautions_of(report))
    cautions = (*skipped_steps(report.skipped), *of_sections)
    held_out = report.held_out
    if report.gold is not None:
        return _by_gold(report.gold, cautions)
    if held_out is None or (held_out.nll is None and held_out.contrast is None):
        sentence = f"It is not known whether training helped, because {_cause_of_no_measurement(report)}"
        return Verdict("Did training help?", "unmeasured", "Not measured", sentence, cautions)
    of_responses = "predict" if held_out.nll is not None else "rank"
    question = f"Does it {of_responses} held-out responses better?"
    if hardly_moved(report):
        return Verdict(question, "unclear", "It hardly moved", _hardly_moved_sentence(report, held_out), cautions)
    if held_out.nll is not None:
        return _by_nll(question, held_out, held_out.nll, cautions)
    assert held_out.contrast is not None
    return _by_contrast(question, held_out, held_out.contrast, cautions)


def skipped_steps(number: int) -> Iterator[Remark]:
    """Yield a remark if steps were skipped."""
    if number:
        steps, its = ("step was", "its") if number == 1 else ("steps were", "their")
        yield Remark(
            "skipped_steps",
            f"{number:,} optimiser {steps} skipped, because {its} loss or gradient was not finite. "
            "bad_steps.jsonl names the rows.",
        )


def _cause_of_no_measurement(report: RunReport) -> str:
    """Return why held-out data shows nothing, and the way out."""
    if report.failure:
        return (
            f"the trained policy could not be measured: {report.failure}. Train again with a smaller "
            "training.learning_rate."
        )
    if report.held_out is not None:
        return (
            f"none of the {report.held_out.num_examples:,} held-out rows says which response is better: all their "
            "labels are equal, or all their pairs are ties. Hold out more prompts (data.eval_fraction=0.3), or name "
            "held-out data with better and worse responses (data.eval=FILE), and train again."
        )
    return (
        "no data that shows it was held out. Hold out some prompts (data.eval_fraction=0.1), or name held-out data "
        "(data.eval=FILE), and train again."
    )


def hardly_moved(report: RunReport) -> bool:
    """Return whether the trained policy can hardly be told from the untrained one.

    True if the log-probabilities of held-out responses changed by less than `SMALL_SHIFT` on average, or if the margin
    did not clearly change and the interval of the KL reaches 0.
    """
    held_out, kl = report.held_out, report.samples.after.kl if report.samples else None
    if held_out is None or held_out.shift is None:
        return False
    stays = held_out.contrast is not None and not held_out.contrast.margin.difference.excludes_zero
    return held_out.shift.estimate < SMALL_SHIFT or (stays and kl is not None and kl.low <= 0)


def _hardly_moved_sentence(report: RunReport, held_out: HeldOut) -> str:
    contrast, sentence = held_out.contrast, f"On {held_out.num_prompts:,} held-out prompts "
    assert held_out.shift is not None
    if held_out.shift.estimate < SMALL_SHIFT:
        sentence += (
            "the trained policy is nearly the untrained one: the log-probability of a response changed by only "
            f"{with_bounds(held_out.shift)} nats on average. "
        )
        if held_out.starts_at_reference and contrast is not None and contrast.accuracy.after.low > 0.5:
            sentence += (
                f"It ranks {with_bounds(contrast.accuracy.after, percent=True)} of comparisons as labelled, but after "
                "so small a change that shows only the direction of the first steps. "
            )
    else:
        assert contrast is not None
        assert report.samples is not None
        assert report.samples.after.kl is not None
        sentence += (
            f"the margin changed by {with_bounds(contrast.margin.difference, signed=True)}, and the KL is "
            f"{with_bounds(report.samples.after.kl)} nats per response: neither can be told from 0. "
        )
    return (
        sentence
        + "To move it further, raise training.learning_rate, train longer (training.num_epochs), or lower beta."
    )


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
    return Verdict(f"Did the {gold.label} go up?", outcome, WORDS[outcome], sentence, cautions)


def _by_contrast(question: str, held_out: HeldOut, contrast: Contrast, cautions: tuple[Remark, ...]) -> Verdict:
    """Return the verdict by two numbers: ranking accuracy, and the effect size (label loss, or else the margin)."""
    better, worse = contrast.sides
    ranking, margin = direction(contrast.accuracy.difference), direction(contrast.margin.difference)
    effect = margin
    if contrast.label_loss is not None:
        effect = direction(contrast.label_loss.difference, less_is_better=True)
    outcome, word = ranking, WORDS[ranking]
    if ranking == "better" and effect != "better":
        outcome, word = "unclear", "Partly"
    if ranking == "unclear" and effect == "better":
        word = "Partly"
    if outcome == "better" and contrast.label_loss is not None and -contrast.label_loss.difference.low < SMALL_GAIN:
        word = "Yes, a little"
    by_definition, learner = held_out.starts_at_reference, held_out.learner
    trained = with_bounds(contrast.accuracy.after, percent=True)
    untrained = "50 % (all its rewards are 0)" if by_definition else estimate(contrast.accuracy.before, percent=True)
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
    if contrast.label_loss is not None:
        sentence += (
            f" The label loss went from {estimate(contrast.label_loss.before, decimals=3)} to "
            f"{with_bounds(contrast.label_loss.after)} nats per comparison; guessing costs {log(2):.3f}."
        )
    measure, should = ("The mean margin", "grow") if contrast.label_loss is None else ("The label loss", "fall")
    endings = {
        ("better", "worse"): f" {measure} did not {should}.",
        ("better", "unclear"): f" {measure} did not clearly {should}.",
        ("unclear", "better"): " The ranking did not clearly improve.",
        ("unclear", "unclear"): f" {held_out.num_prompts:,} prompts are too few to show a difference.",
    }
    return Verdict(question, outcome, word, sentence + endings.get((ranking, effect), ""), cautions)


def _by_nll(question: str, held_out: HeldOut, nll: Change, cautions: tuple[Remark, ...]) -> Verdict:
    outcome = direction(nll.difference, less_is_better=True)
    sentence = (
        f"On {held_out.num_prompts:,} held-out prompts the negative log-likelihood of the demonstrated responses went "
        f"from {estimate(nll.before)} to {estimate(nll.after)} nats per token, a change of "
        f"{with_bounds(nll.difference, signed=True)}; lower is better."
    )
    return Verdict(question, outcome, WORDS[outcome], sentence, cautions)
