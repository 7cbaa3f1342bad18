"""The page of a loop, loop.html and loop.json, and the card of its model, from the cards of its rounds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from tiltlm.diagnostics import Interval
from tiltlm.online.cards import Card
from tiltlm.report.numbers import format_number, share, with_bounds
from tiltlm.report.page import as_json, template_environment, write
from tiltlm.report.plots import FULL
from tiltlm.report.sections import Detail, Remark, SectionView
from tiltlm.report.svg import FIRST, SECOND, THIRD, figure, inline, styled
from tiltlm.report.tables import Cell, Table, TableRow, cell
from tiltlm.report.texts import shorten
from tiltlm.report.verdict import skipped_steps
from tiltlm.sampling.engines.agreement import MEAN_STOPPED, MEAN_WARNED
from tiltlm.storage.files import read_lines
from tiltlm.version import __version__

PAGE, TWIN = "loop.html", "loop.json"
SCHEMA = "tiltlm.loop/1"
SHOWN = 5
"""Samples of the first and of the last round on the page."""
ROUNDS_SHOWN = 12
MANY_CUT, LONGER, LESS_DIVERSE, MANY_DROPPED = 0.2, 1.3, 0.7, 0.9

ENGINE = (
    "How far the log-probabilities of the engine are from those of the policy: |difference| of a token, on average "
    f"over the sequences that a server scores, over the first samples of a round, and at most. {MEAN_WARNED} is much; "
    f"from {MEAN_STOPPED} on a loop stops."
)


@dataclass(frozen=True)
class LoopRecord:
    """What the page of a loop shows."""

    facts: Mapping[str, str]
    cards: tuple[Card, ...]
    rule: str
    """The rule that ended the loop."""
    ended: str
    """The same in words."""
    samples: Mapping[int, Sequence[tuple[str, str]]]
    """Round → prompts and samples."""
    is_rule: bool
    """True if the judge is right by definition."""
    is_audited: bool
    """False if nobody knows how often the judge is right."""
    in_warmup: bool = False
    """True if the learning rate had not reached its peak when the loop ended."""
    skipped: int = 0
    """Optimiser steps that were skipped, because their loss or gradient was not finite."""


Round = TypeVar("Round")


def some_rounds(rounds: Sequence[Round], most: int = ROUNDS_SHOWN) -> list[Round]:
    """Return evenly chosen rounds, with the first and the last."""
    if len(rounds) <= most:
        return list(rounds)
    places = sorted({round(k * (len(rounds) - 1) / (most - 1)) for k in range(most)})
    return [rounds[place] for place in places]


def sentences_of(record: LoopRecord) -> list[str]:
    """Return what came out, in sentences."""
    first, last = record.cards[0], record.cards[-1]
    found = []
    if first.reward is not None and last.reward is not None and len(record.cards) > 1:
        found.append(
            f"The samples of round {last.round} have a mean score of {with_bounds(last.reward)}, those of round 0 "
            f"{with_bounds(first.reward)}."
        )
    if last.held_out is not None and first.held_out is not None and len(record.cards) > 1:
        found.append(
            f"By the held-out judge they went from {with_bounds(first.held_out)} to {with_bounds(last.held_out)}."
        )
    if last.kl is not None:
        found.append(
            f"The policy that drew the last ones is {with_bounds(last.kl)} nats away from the one before the first "
            "round."
        )
    return [*found, f"{record.ended[0].upper()}{record.ended[1:]}."]


def cautions_of(record: LoopRecord) -> Iterator[Remark]:
    """Yield what may have gone wrong, each with what can be done."""
    yield from skipped_steps(record.skipped)
    yield from _of_judges(record)
    yield from _of_samples(record.cards[0], record.cards[-1])
    yield from _of_engine(record)


def _of_judges(record: LoopRecord) -> Iterator[Remark]:
    """Yield what is doubtful about the judges, or about when the loop ended."""
    last = record.cards[-1]
    measured = [(card.round, card.held_out) for card in record.cards if card.held_out is not None]
    if measured:
        (number, best), (_, now) = max(measured, key=lambda one: one[1].estimate), measured[-1]
        if now.high < best.low:
            yield Remark(
                "over_optimised",
                f"By the held-out judge round {number} was better, {with_bounds(best)}, than the last one, "
                f"{with_bounds(now)}: the policy exploits the judge that trains it. Stop earlier (loop.rounds, "
                "stop.kl), raise β, or use a panel of judges.",
            )
    if not record.is_rule and last.held_out is None:
        yield Remark(
            "own_judge",
            "These scores are of the judge that the policy was trained to please, so they overstate what was won. "
            "Give another one with --held-out-judge, or compare the model with the one before training (tiltlm "
            "compare).",
        )
    if not record.is_audited:
        yield Remark(
            "unaudited",
            "The judge has no audit, so nobody knows how often it is right. Measure it: tiltlm judge-audit, then "
            "judge.audit=FILE.",
        )
    if record.in_warmup:
        yield Remark(
            "in_warmup",
            "The loop ended before the learning rate reached its peak: warm-up is a share of all loop.rounds. Set "
            "loop.rounds near the rounds that are wanted, or training.warmup_ratio=0.",
        )
    if diverged := [str(card.round) for card in record.cards if card.judge_diverged]:
        yield Remark(
            "judge_diverged",
            f"The learned judge diverged in round {', '.join(diverged)}, and labelled with what it knew before. Lower "
            "learned_judge.rate.",
        )


def _of_samples(first: Card, last: Card) -> Iterator[Remark]:
    """Yield how samples changed in ways that a judge may not see, and prompts that gave no example."""
    if last.num_tokens > LONGER * first.num_tokens:
        yield Remark(
            "longer",
            f"Samples grew from {first.num_tokens:.0f} to {last.num_tokens:.0f} tokens. Judges often prefer length: "
            "use shaping.length_penalty, examples.rule=short_best, or a judge whose audit shows no such preference.",
        )
    if last.cut > MANY_CUT:
        yield Remark(
            "cut",
            f"{share(last.cut)} of the samples of the last round were cut, so they were judged unfinished and their KL "
            "is a lower bound. Raise sampling.max_new_tokens, or set shaping.cut_penalty.",
        )
    if last.distinct_2 < LESS_DIVERSE * first.distinct_2:
        yield Remark(
            "less_diverse",
            f"Samples of a prompt have become alike (distinct-2 {first.distinct_2:.2f} to {last.distinct_2:.2f}). Stop "
            "earlier (stop.kl), or raise β.",
        )
    dropped = sum(last.dropped.values()) / last.num_prompts
    if dropped > MANY_DROPPED:
        causes = ", ".join(f"{cause} {count}" for cause, count in last.dropped.items())
        yield Remark(
            "no_signal",
            f"{share(dropped)} of the prompts of the last round gave no example ({causes}). Draw more samples "
            "(loop.n), or use harder prompts.",
        )


def _of_engine(record: LoopRecord) -> Iterator[Remark]:
    """Yield how the samples of an engine differ from those of the own sampler."""
    last = record.cards[-1]
    if not last.exact:
        missing = sum(sum(card.missing.values()) for card in record.cards)
        why = f" {missing:,} samples are missing; rounds/*/engine.json says why." if missing else ""
        yield Remark(
            "not_exact",
            f"The engine {last.engine} draws other samples when it is asked again, so a second loop with the same "
            f"settings does not repeat this one.{why}",
        )
    if last.mismatch is not None and last.mismatch > MEAN_WARNED:
        yield Remark(
            "engine_differs",
            f"The engine's log-probabilities differ from the policy's by {last.mismatch:.2g} nats a token. Use a dtype "
            "with more digits on the server, or correction.kind=token_truncate for a policy gradient.",
        )


def table_of(record: LoopRecord) -> Table:
    """Return one row for each round that is shown."""
    rows = []
    for card in some_rounds(record.cards):
        cells = (
            cell(card.reward),
            cell(card.held_out),
            cell(card.kl, decimals=2),
            Cell(format_number(card.num_tokens, 1), f"{share(card.cut)} cut"),
            Cell(format_number(card.distinct_2, 2)),
            Cell(f"{card.num_examples:,}"),
            Cell("–" if card.loss is None else format_number(card.loss, 3)),
            *((cell(card.agreement),) if has_learned(record) else ()),
        )
        rows.append(TableRow(str(card.round), f"round {card.round}", cells))
    heads = ("score", "held-out score", "KL, nats", "tokens", "distinct-2", "examples", "loss")
    return Table((*heads, *(("agreement",) if has_learned(record) else ())), tuple(rows))


def has_learned(record: LoopRecord) -> bool:
    """Return whether a learned judge labelled the samples."""
    return any(card.labels is not None for card in record.cards)


def engine_table(record: LoopRecord) -> Table:
    """Return how well the engine agrees with the policy, one row for each round that is shown."""
    rows = []
    for card in some_rounds(record.cards):
        numbers = (card.probe, card.mismatch, card.mismatch_max)
        cells = tuple(Cell("–" if number is None else f"{number:.2g}") for number in numbers)
        missing = Cell(f"{sum(card.missing.values()):,}")
        rows.append(TableRow(str(card.round), f"round {card.round}", (*cells, missing)))
    return Table(("probe, nats", "samples, nats", "largest, nats", "missing samples"), tuple(rows))


def rounds_figure(record: LoopRecord) -> Markup:
    """Draw score and KL over the rounds."""
    with styled():
        made = figure(FULL, 3.4)
        panels = {
            "score of the judge that trains": ([card.reward for card in record.cards], FIRST),
            "score of the held-out judge": ([card.held_out for card in record.cards], THIRD),
            "KL to the first policy, nats": ([card.kl for card in record.cards], SECOND),
        }
        shown = {title: panel for title, panel in panels.items() if any(panel[0])}
        for axes, (title, (values, colour)) in zip(
            made.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True
        ):
            _draw(axes, record.cards, values, colour, title)
        return inline(made, "rounds", "Scores and KL of each round")


def _draw(axes: Axes, cards: Sequence[Card], values: Sequence[Interval | None], colour: str, title: str) -> None:
    known = [(card.round, value) for card, value in zip(cards, values, strict=True) if value is not None]
    if known:
        x = [place for place, _ in known]
        low, mid, high = ([getattr(value, name) for _, value in known] for name in ("low", "estimate", "high"))
        axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
        axes.plot(x, mid, "o-", color=colour, markersize=3)
    axes.set_title(title)
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.margins(y=0.12)


def sections_of(record: LoopRecord) -> list[SectionView]:
    """Return the sections of the page."""
    lead = (
        "The samples of a round are drawn before the round trains on them. Small print: 95 % intervals by bootstrap "
        "over the prompts of the round."
    )
    if has_learned(record):
        lead += (
            " A learned judge labels the samples. The judge has labelled and scored the bought pairs alone. Agreement "
            "is the share of its labels that the learned judge predicted before it learned from them."
        )
    dropped = [
        TableRow(cause, cause, (Cell(f"{sum(card.dropped.get(cause, 0) for card in record.cards):,}"),))
        for cause in sorted({cause for card in record.cards for cause in card.dropped})
    ]
    spent = [
        TableRow("sampled_tokens", "sampled tokens", (Cell(f"{sum(c.sampled_tokens for c in record.cards):,}"),)),
        TableRow("judgements", "judgements", (Cell(f"{sum(c.judgements for c in record.cards):,}"),)),
        *(
            [TableRow("labels", "labels of the judge", (Cell(f"{sum(c.labels or 0 for c in record.cards):,}"),))]
            if has_learned(record)
            else []
        ),
        TableRow("steps", "optimiser steps", (Cell(f"{num_steps(record):,}{_skipped(record)}"),)),
        TableRow("prompt_tokens", "prompt tokens", (Cell(f"{sum(c.prompt_tokens for c in record.cards):,}"),)),
        TableRow(
            "forward_tokens",
            "tokens read without gradient",
            (Cell(f"{sum(c.forward_tokens for c in record.cards):,}"),),
        ),
        TableRow("train_tokens", "tokens trained on", (Cell(f"{sum(c.train_tokens for c in record.cards):,}"),)),
        TableRow("flops", "floating-point operations", (Cell(f"{sum(c.flops for c in record.cards):.3g}"),)),
    ]
    if any(card.cost != 0 for card in record.cards):
        costs = [card.cost for card in record.cards if card.cost is not None]
        text = f"{sum(costs):g}" if len(costs) == len(record.cards) else "not known"
        spent.append(TableRow("cost", "cost of the judge", (Cell(text),)))
    figures = [rounds_figure(record)] if any(card.reward or card.held_out or card.kl for card in record.cards) else []
    views = [SectionView("rounds", "Rounds", None, lead, [table_of(record)], figures)]
    views.append(SectionView("spent", "What it cost", None, "", [Table(("in all",), tuple(spent))]))
    if dropped:
        text = "Prompts that gave no example, by cause; over all rounds."
        views.append(
            SectionView("dropped", "What was not trained on", None, text, [Table(("prompts",), tuple(dropped))])
        )
    if not record.cards[-1].exact:
        views.append(SectionView("engine", "Engine", None, ENGINE, [engine_table(record)]))
    details = [
        Detail(f"Round {number}", items=tuple(f"{shorten(prompt)} → {answer}" for prompt, answer in samples))
        for number, samples in record.samples.items()
    ]
    views.append(SectionView("samples", "Samples", None, "", details=details))
    return views


def render_rounds(record: LoopRecord) -> str:
    """Return the page as HTML."""
    return (
        template_environment()
        .get_template("study.html")
        .render(
            kicker="loop",
            title=title_of(record),
            facts=record.facts,
            question="What did training on fresh samples do?",
            word="",
            colour="cautious" if any(cautions_of(record)) else "",
            sentences=sentences_of(record),
            cautions=list(cautions_of(record)),
            sections=sections_of(record),
            twin=TWIN,
        )
    )


def card_of_model(record: LoopRecord) -> str:
    """Return README.md of the model folder: what the model is, and what came of the loop."""
    training = f"{len(record.cards):,} rounds, {num_steps(record):,} optimiser steps{_skipped(record)}"
    facts = {**record.facts, "Training": training}
    listed = "\n".join(f"- **{label}**: {text}" for label, text in facts.items())
    return (
        "---\nlibrary_name: transformers\ntags: [tiltlm, preference-alignment]\n---\n\n"
        f"# {title_of(record)}\n\n{' '.join(sentences_of(record))}\n\n{listed}\n\n"
        f"Made with tiltlm {__version__}. The full account is `{PAGE}` beside this folder.\n"
    )


def title_of(record: LoopRecord) -> str:
    """Return the title of the page."""
    return f"Fresh samples of {record.facts['Model']}"


def num_steps(record: LoopRecord) -> int:
    """Return the optimiser steps of all rounds."""
    return sum(card.num_steps for card in record.cards)


def _skipped(record: LoopRecord) -> str:
    """Return what follows a number of steps: how many of them were skipped."""
    return f", {record.skipped:,} of them skipped" if record.skipped else ""


def num_skipped(folder: Path) -> int:
    """Return how many optimiser steps of a run were skipped."""
    return len(read_lines(folder / "bad_steps.jsonl"))


def write_rounds(folder: Path, record: LoopRecord) -> Path:
    """Write the model's card, loop.html, then loop.json, with which a loop is finished; return the path of the page.

    Raises:
        RunError: a file cannot be written.
    """
    record = replace(record, skipped=num_skipped(folder))
    content = {
        "schema": SCHEMA,
        "sentences": sentences_of(record),
        "cautions": [{"key": remark.key, "text": remark.text} for remark in cautions_of(record)],
        **vars(record),
    }
    write(folder / "model/README.md", card_of_model(record))
    write(folder / PAGE, render_rounds(record))
    write(folder / TWIN, as_json(content))
    return folder / PAGE
