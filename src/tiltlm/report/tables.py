"""Tables of a report: each number with its name, what it means in plain words, and its values before and after."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tiltlm.diagnostics import Interval
from tiltlm.evaluation import Change, Contrast, HeldOut, SampleComparison
from tiltlm.report.numbers import bounds, estimate, format_number, share, supported
from tiltlm.report.run_report import RunReport
from tiltlm.report.verdict import SIDES, gold_name


@dataclass(frozen=True)
class Cell:
    """A number and, smaller, what goes with it."""

    value: str
    note: str = ""


@dataclass(frozen=True)
class ReportRow:
    """One line of a table of numbers before and after training."""

    name: str
    meaning: str
    before: Cell
    after: Cell
    difference: Cell


@dataclass(frozen=True)
class Tile:
    """One of the few numbers at the top of the page."""

    name: str
    value: str
    note: str


NONE = Cell("–")


def cell(
    interval: Interval | None, *, percent: bool = False, signed: bool = False, decimals: int | None = None
) -> Cell:
    """An estimate with its interval."""
    if interval is None:
        return NONE
    return Cell(
        estimate(interval, percent=percent, signed=signed, decimals=decimals),
        bounds(interval, percent=percent, signed=signed, decimals=decimals),
    )


def row(name: str, meaning: str, change: Change, *, percent: bool = False, before: Cell | None = None) -> ReportRow:
    """A line of a change, with the same decimals throughout; `before` replaces what is so by definition."""
    measured = [change.after, change.difference] if before else [change.before, change.after, change.difference]
    decimals = max(supported(interval, percent=percent) for interval in measured)
    return ReportRow(
        name,
        meaning,
        before or cell(change.before, percent=percent, decimals=decimals),
        cell(change.after, percent=percent, decimals=decimals),
        cell(change.difference, percent=percent, signed=True, decimals=decimals),
    )


def held_out_rows(held_out: HeldOut, training_accuracy: Interval | None = None) -> list[ReportRow]:
    """The numbers of the verdict, and beside them how well the policy ranks what it was trained on."""
    rows = list(_contrast_rows(held_out, held_out.contrast)) if held_out.contrast is not None else []
    if held_out.nll is not None:
        meaning = "−log-probability of the demonstrated responses, nats per token; lower is better"
        rows.insert(0, row("Negative log-likelihood", meaning, held_out.nll))
    if training_accuracy is not None:
        meaning = (
            "ranking accuracy on examples it was trained on: far above the held-out one, it has learned them by heart"
        )
        rows.append(ReportRow("Training accuracy", meaning, NONE, cell(training_accuracy, percent=True), NONE))
    return rows


def _contrast_rows(held_out: HeldOut, contrast: Contrast) -> Iterator[ReportRow]:
    better, worse = SIDES[contrast.kind]
    by_definition = held_out.starts_at_reference
    if contrast.kind == "pairs":
        accuracy = f"comparisons in which the {better} response has the higher reward; a coin has 50 %"
    else:
        accuracy = f"chance that a {better} response has a higher reward than an {worse} one; a coin has 50 %"
    yield row(
        "Ranking accuracy",
        accuracy,
        contrast.accuracy,
        percent=True,
        before=Cell("50 %", "by definition") if by_definition else None,
    )
    yield row(
        "Margin",
        f"reward of the {better} minus reward of the {worse} response, in units of the reward",
        contrast.margin,
        before=Cell("0", "by definition") if by_definition else None,
    )
    if contrast.seq_accuracy is not None and contrast.mean_accuracy is not None:
        yield row(
            "Ranking by likelihood",
            f"comparisons in which the {better} response is simply the likelier one; shorter ones are likelier",
            contrast.seq_accuracy,
            percent=True,
        )
        yield row("… per token", "the same by log-probability per token", contrast.mean_accuracy, percent=True)
    if contrast.better is not None and contrast.worse is not None:
        yield row(f"{better.capitalize()} responses", "log-probability, nats per token", contrast.better)
        yield row(f"{worse.capitalize()} responses", "log-probability, nats per token", contrast.worse)
    yield ReportRow(
        "Length alone",
        f"accuracy of a rule that always prefers the {contrast.length_rule} response; right: what the "
        f"{held_out.learner} has more",
        NONE,
        cell(contrast.length_accuracy, percent=True),
        cell(contrast.length_advantage, percent=True, signed=True),
    )


def sample_rows(samples: SampleComparison) -> list[ReportRow]:
    """What the policy's own responses show."""
    before, after = samples.before, samples.after
    rows = []
    if after.kl is not None:
        meaning = "how far the policy went from its reference, nats a response: E[log π − log π_ref] on its own samples"
        rows.append(ReportRow("KL to the reference", meaning, cell(before.kl), cell(after.kl), NONE))
    if after.kl_k3 is not None:
        meaning = "the same by an estimator that is never negative; both agree when all is well"
        rows.append(ReportRow("… second estimator", meaning, cell(before.kl_k3), cell(after.kl_k3), NONE))
    rows.append(
        ReportRow(
            "Length",
            "tokens of a response, end token included",
            cell(before.length),
            cell(after.length),
            cell(samples.length_difference, signed=True),
        )
    )
    rows.append(
        ReportRow(
            "Cut short",
            f"responses that had not ended after {samples.max_new_tokens} tokens",
            Cell(share(before.cut_share)),
            Cell(share(after.cut_share)),
            NONE,
        )
    )
    return rows


def tiles(report: RunReport) -> list[Tile]:
    """The few numbers that a reader takes along."""
    shown: list[Tile] = []
    held_out = report.held_out
    if report.gold is not None:
        found = report.gold.attainment
        shown += [
            _tile(gold_name(report.gold), found.policy, f"untrained {estimate(found.reference)}"),
            _tile("win rate over untrained", report.gold.win_rate, percent=True),
            _tile("of the attainable gain", found.share, percent=True),
            _tile("KL, nats a response", found.kl),
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
            shown.append(_tile("KL, nats a response", after.kl))
        if len(shown) < 4:
            before = f"untrained {estimate(report.samples.before.length)}"
            shown.append(_tile("tokens a response", after.length, before))
    return shown


def _tile(name: str, interval: Interval, extra: str = "", *, percent: bool = False) -> Tile:
    inner = bounds(interval, percent=percent)
    return Tile(name, estimate(interval, percent=percent), ", ".join(part for part in (inner, extra) if part))


@dataclass(frozen=True)
class DataRow:
    """One line of the accounting of rows."""

    name: str
    rows: str
    share: str
    meaning: str = ""
    example: str = ""
    is_total: bool = False


def data_rows(data: Mapping[str, Any]) -> list[DataRow]:
    """Every row of the data, by what became of it."""
    total = max(int(data["total"]), 1)

    def line(name: str, rows: int, meaning: str = "", example: str = "", is_total: bool = False) -> DataRow:
        return DataRow(name, format_number(rows, 0), share(rows / total), meaning, example, is_total)

    lines = [line("rows read", data["total"], is_total=True)]
    lines += [line("used for training", data["train"]), line("held out", data["held_out"])]
    for word, key in (("dropped", "losses"), ("changed", "changes")):
        for cause, found in data.get(key, {}).items():
            examples = found.get("examples") or [""]
            lines.append(line(f"{word}: {cause}", found["rows"], found.get("meaning", ""), str(examples[0])))
    return lines


def length_rows(data: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Tokens of prompts and responses: mean, median, 95th percentile, maximum."""
    columns = ("mean", "median", "p95", "max")
    return [(what, [format_number(found[c], 0) for c in columns]) for what, found in data.get("tokens", {}).items()]
