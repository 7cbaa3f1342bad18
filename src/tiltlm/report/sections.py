"""The sections of a run's page. `SECTIONS` lists them in order; to add one, write it here and list it there.

A section takes what it needs from the report (`measure`) and turns it into tables, figures and texts. The template
shows these in a fixed order and knows no section by name. The module is long so that a new section is one file to edit.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from markupsafe import Markup

from tiltlm.diagnostics import MIN_EFFECTIVE_SAMPLES
from tiltlm.evaluation import Contrast, Gold, SampleComparison, SampleText
from tiltlm.evaluation.probability import Probability
from tiltlm.report import plots
from tiltlm.report.by_source import source_tables, sources_that_fell
from tiltlm.report.numbers import estimate, format_number, share, with_bounds
from tiltlm.report.run_report import RunReport
from tiltlm.report.tables import BEFORE_AFTER, NONE, Cell, Table, TableRow, cell, change_row
from tiltlm.report.texts import as_yaml, shorten

FEW_PROMPTS = 50
LOSS_RISE = 0.02
"""A held-out loss that rose from its lowest value by this share of it has risen again."""
LARGE_KL = 10.0
"""Nats per response. Beyond this a policy has little left of its reference."""
SMALL_PRINT = "Small print: 95 % intervals, by bootstrap over prompts."

T = TypeVar("T")


@dataclass(frozen=True)
class Remark:
    """A sentence with a stable name, so that its words can change."""

    key: str
    text: str


@dataclass(frozen=True)
class Detail:
    """A part of a section that can be folded: a text, a list, or terms with their descriptions."""

    title: str
    text: str = ""
    items: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    """Short facts, shown side by side."""
    glossary: Mapping[str, str] = field(default_factory=dict)
    """Terms and their descriptions, shown one below the other."""
    is_folded: bool = True
    """False: shown under a heading, without a way to fold it."""
    is_open: bool = False


def _none(_: Any) -> tuple[()]:
    return ()


def _no_text(_: Any) -> str:
    return ""


@dataclass(frozen=True)
class SectionView:
    """Content of a section on the page."""

    key: str
    title: str
    absent: Remark | None
    lead: str = ""
    tables: Sequence[Table] = ()
    figures: Sequence[Markup] = ()
    text: str = ""
    samples: Sequence[SampleText] = ()
    details: Sequence[Detail] = ()


@dataclass(frozen=True)
class Section(Generic[T]):
    """One section of the page of a run."""

    key: str
    """Stable name: the `id` of the section on the page."""
    title: str
    measure: Callable[[RunReport], T | None]
    """Takes from the report what the section shows; None if that was not measured."""
    lead: Callable[[T], str] = _no_text
    """Says what is shown and how to read it."""
    rows: Callable[[T], Sequence[Table]] = _none
    figure: Callable[[T], Sequence[Markup]] = _none
    text: Callable[[T], str] = _no_text
    """A paragraph beneath tables and figures."""
    samples: Callable[[T], Sequence[SampleText]] = _none
    """Responses before and after training, shown side by side."""
    details: Callable[[T], Sequence[Detail]] = _none
    cautions: Callable[[T], Iterable[Remark]] = _none
    """Remarks that limit or contradict the verdict. They are shown beside the verdict."""
    absent: Callable[[RunReport], Remark | None] = lambda _: None
    """Says what was not measured. Without it, a section that was not measured is left out."""

    def show(self, report: RunReport) -> SectionView | None:
        """Return what the page shows of this section; None if the page leaves it out."""
        measured, absent = self.measure(report), self.absent(report)
        if measured is None:
            return None if absent is None else SectionView(self.key, self.title, absent)
        return SectionView(
            self.key,
            self.title,
            absent,
            self.lead(measured),
            self.rows(measured),
            self.figure(measured),
            self.text(measured),
            self.samples(measured),
            self.details(measured),
        )

    def cautions_of(self, report: RunReport) -> Iterator[Remark]:
        """Yield the cautions of this section."""
        measured = self.measure(report)
        if measured is not None:
            yield from self.cautions(measured)


# What was possible


def _possible_lead(gold: Gold) -> str:
    levels = [f"{level:g}" for level in gold.levels]
    values = ", ".join(levels) if len(levels) <= 10 else f"{len(levels)} values from {levels[0]} to {levels[-1]}"
    return (
        "At a given KL, no policy can have a higher reward than the untrained policy tilted by the reward, "
        "π ∝ π_ref · exp(reward / β). This is the frontier. Best of n takes the best of n untrained responses, at n "
        f"times the cost. Both are computed from {gold.reference_samples} untrained responses per prompt, with "
        "bootstrap bands; where these are too few, nothing is drawn. The reward of the trained policy is the mean over "
        f"{gold.policy_samples} responses per prompt. Possible rewards: {values}."
    )


def _attained(gold: Gold) -> str:
    found = gold.attainment
    return (
        f"The trained policy has a KL of {with_bounds(found.kl)} nats per response. At this KL a policy can have a "
        f"reward of at most {with_bounds(found.attainable)}. The trained policy has {with_bounds(found.policy)}, the "
        f"untrained policy {with_bounds(found.reference)}. That is {with_bounds(found.share, percent=True)} of the "
        f"attainable gain. At this KL the {gold.reference_samples} untrained responses of a prompt are as precise as "
        f"{format_number(found.effective_samples, 0)} responses of the best policy."
    )


def _possible_cautions(gold: Gold) -> Iterator[Remark]:
    if gold.is_above_frontier:
        yield Remark(
            "above_frontier",
            "The policy lies above the frontier, which is impossible: the reward or the KL is measured wrongly, or "
            "there are too few untrained responses.",
        )
    effective = gold.attainment.effective_samples
    if effective < MIN_EFFECTIVE_SAMPLES:
        yield Remark(
            "few_effective_samples",
            f"At this KL the untrained responses of a prompt are as precise as only {format_number(effective, 0)} "
            f"responses of the best policy (below {MIN_EFFECTIVE_SAMPLES:.0f}), so the share of the attainable gain is "
            "unreliable.",
        )


# On held-out data


def _held_out(report: RunReport) -> RunReport | None:
    held_out = report.held_out
    is_compared = held_out is not None and (held_out.contrast is not None or held_out.nll is not None)
    return report if is_compared or report.training_accuracy is not None else None


def _held_out_lead(report: RunReport) -> str:
    held_out = report.held_out
    if held_out is None:
        return ""
    counts = f"{held_out.num_examples:,} rows with {held_out.num_prompts:,} distinct prompts, not used for training"
    if held_out.contrast is not None:
        pairs = held_out.contrast.kind == "pairs"
        kind = "comparisons" if pairs else "pairings of a desirable with an undesirable response"
        counts += f"; {held_out.contrast.num_comparisons:,} {kind}"
        if held_out.contrast.num_label_ties:
            counts += f", and {held_out.contrast.num_label_ties:,} labelled as ties, which count in the label loss only"
    return f"{counts}. {SMALL_PRINT}"


def _held_out_rows(report: RunReport) -> Sequence[Table]:
    rows: list[TableRow] = []
    held_out = report.held_out
    if held_out is not None:
        if held_out.nll is not None:
            meaning = "−log-probability of the demonstrated responses, nats per token; lower is better"
            rows.append(change_row("nll", "Negative log-likelihood", meaning, held_out.nll))
        if held_out.contrast is not None:
            rows += _contrast_rows(held_out.contrast, held_out.learner, by_definition=held_out.starts_at_reference)
        if held_out.shift is not None:
            meaning = "mean size of the change of a response's log-probability, nats, up or down: how far training went"
            rows.append(TableRow("shift", "Change of log-probability", (NONE, NONE, cell(held_out.shift)), meaning))
    if report.training_accuracy is not None:
        learner = "policy" if held_out is None else held_out.learner
        meaning = (
            "ranking accuracy on examples that were used for training; if this is far above held-out accuracy, the "
            f"{learner} has memorised its training data"
        )
        accuracy = cell(report.training_accuracy, percent=True)
        rows.append(TableRow("training_accuracy", "Training accuracy", (NONE, accuracy, NONE), meaning))
    return [Table(BEFORE_AFTER, tuple(rows)), *source_tables(held_out)]


def _contrast_rows(contrast: Contrast, learner: str, *, by_definition: bool) -> Iterator[TableRow]:
    better, worse = contrast.sides
    if contrast.kind == "pairs":
        accuracy = f"share of comparisons in which the {better} response has the higher reward"
    else:
        accuracy = f"chance that a {better} response has a higher reward than an {worse} one"
    yield change_row(
        "accuracy",
        "Ranking accuracy",
        f"{accuracy}; guessing at random gives 50 %",
        contrast.accuracy,
        percent=True,
        before=Cell("50 %", "all rewards are 0") if by_definition else None,
    )
    yield change_row(
        "margin",
        "Margin",
        f"reward of the {better} response minus reward of the {worse} one, in units of the reward",
        contrast.margin,
        before=Cell("0", "policy = reference") if by_definition else None,
    )
    if contrast.label_loss is not None:
        meaning = (
            "−log-likelihood of the labels if rewards are log-odds, nats per comparison; lower is better, and guessing "
            "costs log 2 = 0.693"
        )
        yield change_row("label_loss", "Label loss", meaning, contrast.label_loss)
    yield from _likelihood_rows(contrast)
    yield TableRow(
        "length_rule",
        "Length rule",
        (
            NONE,
            cell(contrast.length_accuracy, percent=True),
            cell(contrast.length_advantage, percent=True, signed=True),
        ),
        f"accuracy of a rule that always prefers the {contrast.length_rule} response; last column: how much better the "
        f"{learner} does than this rule",
    )


def _likelihood_rows(contrast: Contrast) -> Iterator[TableRow]:
    better, worse = contrast.sides
    if contrast.seq_accuracy is not None and contrast.mean_accuracy is not None:
        yield change_row(
            "seq_accuracy",
            "Ranking by likelihood",
            f"share of comparisons in which the {better} response is the more likely one; this favours short responses",
            contrast.seq_accuracy,
            percent=True,
        )
        yield change_row(
            "mean_accuracy",
            "Ranking by likelihood per token",
            f"share of comparisons in which the {better} response has the higher log-probability per token",
            contrast.mean_accuracy,
            percent=True,
        )
    if contrast.better is not None and contrast.worse is not None:
        meaning = "log-probability, nats per token"
        yield change_row("better", f"{better.capitalize()} responses", meaning, contrast.better)
        yield change_row("worse", f"{worse.capitalize()} responses", meaning, contrast.worse)
    if (moved := contrast.displacement) is not None:
        meaning = "log-probability of the whole response, nats"
        for key, side, shift in (("better_total", better, moved.chosen), ("worse_total", worse, moved.rejected)):
            name = f"{side.capitalize()} responses, in total"
            yield TableRow(key, name, (NONE, NONE, cell(shift, signed=True)), meaning)
        fell = cell(moved.share_chosen_fell, percent=True)
        name = f"{better.capitalize()} responses less likely"
        meaning = f"share of prompts whose {better} responses became less likely in training"
        yield TableRow("share_fell", name, (NONE, NONE, fell), meaning)


def _held_out_figure(report: RunReport) -> Sequence[Markup]:
    held_out = report.held_out
    if held_out is None or held_out.contrast is None:
        return ()
    return [plots.accuracy_figure(held_out, held_out.contrast)]


def _held_out_cautions(report: RunReport) -> Iterator[Remark]:
    held_out = report.held_out
    if held_out is None:
        return
    if held_out.num_prompts < FEW_PROMPTS:
        yield Remark(
            "few_prompts",
            f"There are only {held_out.num_prompts} held-out prompts: the intervals are wide, and with so few prompts "
            "bootstrap intervals are still narrower than they should be. Hold out more (data.eval_fraction).",
        )
    if worse_sources := sources_that_fell(held_out):
        yield Remark(
            "source_worse",
            f"Rows of {', '.join(worse_sources)} are ranked worse after training, and the whole interval says so. Look "
            "at the labels of this source, or give it more weight in data.train.",
        )
    contrast = held_out.contrast
    if contrast is None:
        return
    better, worse = contrast.sides
    if contrast.is_displaced and contrast.better is not None and contrast.worse is not None:
        fell = contrast.displacement
        at_prompts = f" (less likely at {share(fell.share_chosen_fell.estimate)} of prompts)" if fell else ""
        yield Remark(
            "displaced",
            f"Displacement: the {better} responses themselves became less likely. Their log-probability changed by "
            f"{with_bounds(contrast.better.difference, signed=True)} nats per token{at_prompts}, that of the {worse} "
            f"ones by {with_bounds(contrast.worse.difference, signed=True)}. The lost probability went to responses "
            "that are not in the data: read samples before you trust the margin. Objectives that keep the better "
            "responses likely prevent it (dpo_nll, dpop).",
        )
    if held_out.nll is None and not contrast.length_advantage.low > 0:
        yield Remark(
            "length_rule",
            f"A rule that always prefers the {contrast.length_rule} response is right in "
            f"{with_bounds(contrast.length_accuracy, percent=True)} of comparisons. The {held_out.learner} is not "
            "clearly better than this rule, and may have learned little more than length. Balance the lengths in the "
            "data, or use an objective that corrects for length (length_dpo).",
        )
    if contrast.label_loss is not None and contrast.label_loss.difference.low > 0:
        yield Remark(
            "overconfident",
            f"The margins are larger than the labels support: the label loss went up, from "
            f"{estimate(contrast.label_loss.before)} to {with_bounds(contrast.label_loss.after)} nats per comparison. "
            "Train less (training.num_epochs, training.learning_rate), or raise beta.",
        )
    if contrast.ties > 0.01:
        yield Remark(
            "ties",
            f"In {share(contrast.ties)} of comparisons both responses have the same reward. A tie counts one half; "
            "model.dtype=float32 tells more of them apart.",
        )


def _held_out_absent(report: RunReport) -> Remark | None:
    held_out = report.held_out
    if held_out is not None and (held_out.contrast is not None or held_out.nll is not None):
        return None
    return Remark(
        "held_out",
        "Nothing was held out, or the data does not say which response is better, so held-out data gives no verdict.",
    )


# Over training


def _is_scorer(report: RunReport) -> bool:
    return report.held_out is not None and report.held_out.learner == "reward model"


def _training_lead(report: RunReport) -> str:
    has_held_out = any(series.part == "held_out" for series in report.series)
    lead = "Dots: held-out rows. Faint lines: training batches." if has_held_out else "Lines: training batches."
    if _is_scorer(report):
        return lead
    return (
        f"{lead} If the margin grows while both log-probabilities fall, the policy is displaced: it avoids the "
        "rejected responses, but the probability goes to texts that are not in the data."
    )


def _training_figures(report: RunReport) -> Sequence[Markup]:
    contrast = report.held_out.contrast if report.held_out is not None else None
    return plots.training_figures(report.series, contrast)


def _training_cautions(report: RunReport) -> Iterator[Remark]:
    """Yield a remark if the held-out loss rose again while the training loss fell."""
    curves = {series.part: series for series in report.series if series.name == "loss"}
    if len(curves) < 2 or len(curves["held_out"].values) < 3:
        return
    held_out, training = curves["held_out"], curves["train"]
    best = min(range(len(held_out.values)), key=lambda k: held_out.values[k])
    rise = held_out.values[-1] - held_out.values[best]
    last_step = held_out.steps[best]
    at_best = [value for step, value in zip(training.steps, training.values, strict=True) if step <= last_step]
    later = training.values[len(at_best) :]
    if not at_best or not later or rise < LOSS_RISE * abs(held_out.values[best]):
        return
    if sum(later) / len(later) < sum(at_best[-len(later) :]) / len(at_best[-len(later) :]):
        yield Remark(
            "over_trained",
            f"The held-out loss was lowest at step {last_step:g} ({format_number(held_out.values[best])}) and rose to "
            f"{format_number(held_out.values[-1])} while the training loss fell. Train less "
            "(training.num_epochs), or keep the best checkpoint: training.best_metric=eval_loss.",
        )


# Where probability went


def _probability(report: RunReport) -> RunReport | None:
    found = report.probability
    parts = () if found is None else (found.shift, found.ches, found.weights)
    return report if any(part is not None for part in parts) else None


def _probability_tables(report: RunReport) -> Sequence[Table]:
    found = report.probability
    assert found is not None, "the section has a measure"
    return [*_shift_tables(found), *_weight_tables(found), *_ches_tables(found)]


def _shift_tables(found: Probability) -> Iterator[Table]:
    shift = found.shift
    if shift is None:
        return
    rows = [
        ("samples", "Usual responses", shift.samples, "samples of the untrained policy, nats per response"),
        ("greedy", "Likeliest response", shift.greedy, "the likeliest token at each step, nats per response"),
        ("others", "Other prompts' responses", shift.others, "better responses to other prompts, nats per response"),
        ("top_token", "Likeliest token", shift.top_token, "at each position of the better responses, nats per token"),
    ]
    made = [TableRow(key, name, (cell(value, signed=True),), text) for key, name, value, text in rows if value]
    text = "share of prompts at which it is another one after training"
    made.append(
        TableRow("greedy_changed", "Likeliest response changed", (cell(shift.greedy_changed, percent=True),), text)
    )
    yield Table(("change",), tuple(made), title="Responses that no row compares")


def _weight_tables(found: Probability) -> Iterator[Table]:
    weights = found.weights
    if weights is None:
        return

    def pair(values: tuple[float, float]) -> tuple[Cell, Cell, Cell]:
        return Cell(share(values[0])), Cell(share(values[1])), NONE

    rows = (
        change_row("mean_weight", "Mean weight", "slope of the loss at a comparison's margin", weights.mean),
        TableRow(
            "heaviest_tenth",
            "Heaviest tenth",
            pair(weights.heaviest_tenth),
            "its share of the weight of all comparisons",
        ),
        TableRow(
            "effective_share",
            "Comparisons in effect",
            pair(weights.effective_share),
            "share of comparisons that would weigh as much if all weighed the same: (Σw)²/(B·Σw²)",
        ),
    )
    yield Table(BEFORE_AFTER, rows, title="Weight of held-out comparisons in the gradient")


def _ches_tables(found: Probability) -> Iterator[Table]:
    ches = found.ches
    if ches is None:
        return
    rows = [
        TableRow(name, f"{name} lie below", (Cell(format_number(value)),)) for name, value in ches.quantiles.items()
    ]
    if ches.with_shift is not None:
        text = (
            "rank correlation with what the better responses gained; below 0, pairs of similar responses lost more "
            "(data.max_ches leaves them out)"
        )
        rows.append(TableRow("with_shift", "Goes with the shift", (cell(ches.with_shift, signed=True),), text))
    yield Table(("CHES",), tuple(rows), title="How alike the untrained policy saw the two responses of a pair")


def _probability_cautions(report: RunReport) -> Iterator[Remark]:
    found = report.probability
    if found is None:
        return
    contrast = report.held_out.contrast if report.held_out is not None else None
    if contrast is not None and contrast.is_displaced and found.shift is not None and found.shift.top_token.low > 0:
        yield Remark(
            "squeezed",
            "What the better responses lost, the policy's own first choices gained: the likeliest token along these "
            f"responses changed by {with_bounds(found.shift.top_token, signed=True)} nats per token. Objectives that "
            "keep the better responses likely prevent it (dpo_nll, dpop), and so does training on them first (sft).",
        )
    if found.weights is not None and found.weights.heaviest_tenth[1] > 0.5:
        yield Remark(
            "few_pairs_weigh",
            f"A tenth of the held-out comparisons has {share(found.weights.heaviest_tenth[1])} of all weight in the "
            "gradient. Such pairs are often labelled wrongly: read those with the lowest margin, or bound their weight "
            "(objective=cdpo, robust_dpo).",
        )


# The policy's own responses


def _samples_lead(samples: SampleComparison) -> str:
    return (
        f"{samples.samples_per_prompt} responses to each of {samples.num_prompts:,} held-out prompts, sampled at "
        "temperature 1 from the full distribution (no top-k, no top-p)."
    )


def _sample_rows(samples: SampleComparison) -> Sequence[Table]:
    before, after = samples.before, samples.after
    rows = []
    if after.kl is not None:
        meaning = (
            "how far the policy is from the reference, nats per response: E[log π − log π_ref] over its own responses"
        )
        rows.append(TableRow("kl", "KL to the reference", (cell(before.kl), cell(after.kl), NONE), meaning))
    if after.kl_k3 is not None:
        meaning = "the same by an estimator that is never negative; if the two differ much, there are too few responses"
        rows.append(TableRow("kl_k3", "KL, second estimator", (cell(before.kl_k3), cell(after.kl_k3), NONE), meaning))
    lengths = cell(before.length), cell(after.length), cell(samples.length_difference, signed=True)
    rows.append(TableRow("length", "Length", lengths, "tokens per response, end token included"))
    shares = Cell(share(before.cut_share)), Cell(share(after.cut_share)), NONE
    meaning = f"share of responses that had not ended after {samples.max_new_tokens} tokens"
    rows.append(TableRow("cut_share", "Cut short", shares, meaning))
    return [Table(BEFORE_AFTER, tuple(rows))]


def _sample_cautions(samples: SampleComparison) -> Iterator[Remark]:
    before, after = samples.before, samples.after
    if after.kl is not None and after.kl.estimate > LARGE_KL:
        yield Remark(
            "large_kl",
            f"The policy moved far from its reference: the KL is {with_bounds(after.kl)} nats per response. Its gains "
            "may not hold on texts unlike the data. A lower learning rate or a larger beta keeps it closer.",
        )
    if after.cut_share > 0.05:
        yield Remark(
            "cut",
            f"{share(after.cut_share)} of the responses were cut at {samples.max_new_tokens} tokens, so their KL and "
            "length are lower bounds. Raise evaluation.max_new_tokens.",
        )
    ratio = after.length.estimate / before.length.estimate
    if not 0.8 <= ratio <= 1.25 and samples.length_difference.excludes_zero:
        yield Remark(
            "length_changed",
            f"Responses became {'longer' if ratio > 1 else 'shorter'}: {estimate(before.length)} → "
            f"{estimate(after.length)} tokens on average. An objective that corrects for length keeps it "
            "(length_dpo, ln_dpo).",
        )


def _samples_absent(report: RunReport) -> Remark | None:
    if report.samples is None and _is_scorer(report):
        return Remark("no_samples", "A reward model generates no text, so there are no responses and no KL.")
    if report.samples is None:
        return Remark("no_samples", "The policy was not sampled.")
    if report.samples.after.kl is None:
        return Remark("no_kl", "The responses were not scored under a reference, so there is no KL.")
    return None


# Data

ROLES = {"both": "chosen and rejected"}
"""Names of roles of a text, where the name in the data is not clear enough."""


def _data_rows(data: Mapping[str, Any]) -> Sequence[Table]:
    total = max(int(data["total"]), 1)

    def row(key: str, name: str, count: int, **more: Any) -> TableRow:
        return TableRow(key, name, (Cell(format_number(count, 0)), Cell(share(count / total))), **more)

    rows = [row("total", "rows read", data["total"], is_total=True)]
    rows += [row("train", "used for training", data["train"]), row("held_out", "held out", data["held_out"])]
    for word, key in (("dropped", "losses"), ("changed", "changes")):
        for cause, found in data.get(key, {}).items():
            example = str((found.get("examples") or [""])[0])
            texts = {"meaning": found.get("meaning", ""), "example": shorten(example, 200)}
            rows.append(row(cause, f"{word}: {cause}", found["rows"], **texts))
    tables = [Table(("rows", "share"), tuple(rows), row_heading="what happened to the rows")]
    if data.get("tokens"):
        columns = {"mean": "mean", "median": "median", "p95": "95th percentile", "max": "longest"}
        lengths = [
            TableRow(role, ROLES.get(role, role), tuple(Cell(format_number(found[column], 0)) for column in columns))
            for role, found in data["tokens"].items()
        ]
        tables.append(Table(tuple(columns.values()), tuple(lengths), title="Tokens"))
    return tables


# How this was made

GLOSSARY = {
    "Policy, reference": "The policy is the model that is trained. The reference is the frozen model that it is "
    "compared with, usually the same model before training.",
    "Reward": "The quantity that the objective raises for better responses. For DPO it is β times the log-probability "
    "that a response gained over the reference. It does not measure quality by itself.",
    "Margin": "The reward of the better response of a comparison minus the reward of the worse one.",
    "Nat": "The unit of log-probability with the natural logarithm. One nat less means 2.7 times less likely.",
    "KL": "How far the policy is from its reference, measured on the policy's own responses. 0 means not at all; "
    "beyond about 10 nats per response little of the reference is left.",
    "Displacement": "The margin grows while the better responses themselves become less likely.",
    "Interval": "If other prompts had been held out, 95 of 100 such intervals would contain the true value. It does "
    "not cover the variation between training seeds.",
}


def _details(report: RunReport) -> Sequence[Detail]:
    details = [
        Detail("Command", text=shorten(report.command), is_folded=False),
        Detail("Notes of the run", items=tuple(shorten(note, 500) for note in report.notes), is_open=True),
        Detail("Configuration", text=shorten(as_yaml(report.config), 20_000)),
        Detail("Versions", facts=report.versions),
        Detail("Digests", facts=report.digests),
        Detail("Glossary", glossary=GLOSSARY),
    ]
    return [d for d in details if d.text or d.items or d.facts or d.glossary]


SECTIONS: tuple[Section[Any], ...] = (
    Section[Gold](
        "possible",
        "What was possible",
        measure=lambda report: report.gold,
        lead=_possible_lead,
        figure=lambda gold: [plots.frontier_figure(gold)],
        text=_attained,
        cautions=_possible_cautions,
    ),
    Section[RunReport](
        "held_out",
        "On held-out data",
        measure=_held_out,
        lead=_held_out_lead,
        rows=_held_out_rows,
        figure=_held_out_figure,
        cautions=_held_out_cautions,
        absent=_held_out_absent,
    ),
    Section[RunReport](
        "training",
        "Over training",
        measure=lambda report: report if report.series else None,
        lead=_training_lead,
        figure=_training_figures,
        cautions=_training_cautions,
        absent=lambda report: None if report.series else Remark("training", "No metrics were recorded."),
    ),
    Section[RunReport](
        "probability",
        "Where probability went",
        measure=_probability,
        lead=lambda _: (
            "A loss of margins says nothing of other responses. What both sides of a comparison lose, others gain."
        ),
        rows=_probability_tables,
        cautions=_probability_cautions,
    ),
    Section[SampleComparison](
        "responses",
        "The policy's own responses",
        measure=lambda report: report.samples,
        lead=_samples_lead,
        rows=_sample_rows,
        samples=lambda samples: samples.texts,
        cautions=_sample_cautions,
        absent=_samples_absent,
    ),
    Section[Mapping[str, Any]](
        "data",
        "Data",
        measure=lambda report: report.data,
        rows=_data_rows,
        absent=lambda report: None if report.data is not None else Remark("data", "No counts of rows were recorded."),
    ),
    Section[RunReport]("made", "How this was made", measure=lambda report: report, details=_details),
)
"""All sections of a run's page, in order."""
