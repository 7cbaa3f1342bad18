"""What a comparison of systems says in words: which one is better, and what limits that."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tiltlm.diagnostics.comparing.planning import prompts_needed
from tiltlm.evaluation.answers.system_comparison import PairOfSystems, SystemComparison
from tiltlm.judging.judge import MAX_ERRORS
from tiltlm.report.numbers import format_number, share, with_bounds
from tiltlm.report.sections import FEW_PROMPTS, Remark

MANY_CONTRADICTIONS = 0.2
"""Share of pairs whose two orders contradict each other, from which the judge is called unreliable here."""


@dataclass(frozen=True)
class Headline:
    """The verdict of a comparison."""

    outcome: str
    """Of two systems as `PairOfSystems.outcome`; of several `ranking`."""
    word: str
    colour: str
    sentences: tuple[str, ...]
    """One for each pair of systems."""
    cautions: tuple[Remark, ...]


def headline(comparison: SystemComparison) -> Headline:
    """Return what came out, in words."""
    pairs = comparison.pairs
    sentences = tuple(sentence_of(pair) for pair in pairs)
    cautions = tuple(cautions_of(comparison))
    if len(pairs) > 1:
        decided = sum(pair.outcome in ("first", "second") for pair in pairs)
        word = f"{decided} of {len(pairs)} pairs can be told apart"
        return Headline("ranking", word, "", sentences, cautions)
    pair = pairs[0]
    words = {
        "first": f"{pair.first} is better",
        "second": f"{pair.second} is better",
        "undecided": "A coin flip",
        "no_headline": "Not stated",
    }
    colour = {"first": "better", "second": "better", "no_headline": "cautious"}.get(pair.outcome, "")
    return Headline(pair.outcome, words[pair.outcome], colour, sentences, cautions)


def sentence_of(pair: PairOfSystems) -> str:
    """Return one sentence about two systems."""
    if not pair.has_headline or pair.win_rate is None:
        return (
            f"No win rate of {pair.first} against {pair.second} is stated: {share(pair.error_share)} of the judgements "
            f"failed, more than {share(MAX_ERRORS)}, and what failed may differ from the rest."
        )
    better = pair.win_rate.mirrored if pair.outcome == "second" else pair.win_rate
    first, second = (pair.second, pair.first) if pair.outcome == "second" else (pair.first, pair.second)
    rate = with_bounds(better.rate, percent=True)
    p_value = better.p_value if pair.adjusted_p is None else pair.adjusted_p
    if pair.outcome != "undecided":
        return f"{first} beats {second}: win rate {rate}, ties counted half; {p_text(p_value)}."
    distance = abs(better.rate.estimate - 0.5)
    needed = (
        f" A difference of this size needs about {prompts_needed(distance):,} prompts."
        if 0.005 < distance < 0.45
        else ""
    )
    return f"{first} and {second} cannot be told apart: win rate of {first} {rate}.{needed}"


def p_text(p: float) -> str:
    """Return a p-value as text; a small one is not rounded to 0."""
    return "p < 0.001" if p < 0.001 else f"p = {format_number(p, 3 if p < 0.1 else 2)}"


def cautions_of(comparison: SystemComparison) -> Iterator[Remark]:
    """Yield what limits or contradicts the numbers."""
    if comparison.num_prompts < FEW_PROMPTS:
        yield Remark("few_prompts", f"Only {comparison.num_prompts} prompts: intervals of so few are rough.")
    if comparison.overlap:
        names = ", ".join(sorted({name for names in comparison.overlap.values() for name in names}))
        yield Remark(
            "trained_on",
            f"{len(comparison.overlap)} of the {comparison.num_prompts} prompts are in the training data of {names}.",
        )
    if comparison.same_judge:
        yield same_judge(comparison.judge, comparison.same_judge)
    for pair in comparison.pairs:
        yield from _of_pair(pair)


def same_judge(judge: str, names: Sequence[str]) -> Remark:
    """Return the remark that the judge which measures has also made training data."""
    return Remark(
        "same_judge",
        f"{judge} also labelled the training data of {', '.join(names)}, so these learned to please it, errors and "
        "all. Use another judge to measure, unless this one is right by definition.",
    )


def _of_pair(pair: PairOfSystems) -> Iterator[Remark]:
    title, total = f"{pair.first} against {pair.second}", max(1, sum(pair.counts.values()))
    if pair.counts["error"] and pair.has_headline:
        yield Remark("errors", f"{title}: {share(pair.error_share)} of the judgements failed and are left out.")
    contradictions = pair.counts["inconsistent"] / total
    if contradictions > MANY_CONTRADICTIONS:
        yield Remark(
            "contradictions",
            f"{title}: at {share(contradictions)} of the pairs the judge prefers the other answer when the order is "
            "exchanged. It cannot tell these answers apart.",
        )
    if pair.counts["both_bad"]:
        count = share(pair.counts["both_bad"] / total)
        yield Remark("both_bad", f"{title}: at {count} of the pairs the judge finds both answers bad; left out.")
    control, rate = pair.length_control, pair.win_rate
    if control is not None and rate is not None and pair.has_headline:
        is_lost = rate.is_decided and control.rate.low <= 0.5 <= control.rate.high
        is_turned = rate.is_decided and (control.rate.estimate - 0.5) * (rate.rate.estimate - 0.5) < 0
        if is_lost or is_turned:
            at_equal = with_bounds(control.rate, percent=True)
            yield Remark(
                "length", f"{title}: at equal length the win rate is {at_equal}. Length explains the difference."
            )
    shift = pair.shifts.get("refusals")
    if shift is not None and shift.excludes_zero:
        yield Remark(
            "refusals",
            f"{title}: refusals differ by {with_bounds(shift, percent=True, signed=True)}. A judge may like or dislike "
            "refusals whatever they refuse.",
        )
