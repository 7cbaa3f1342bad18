"""The page of data statistics."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator, PercentFormatter

from tiltlm.data.stats import DataStatistics, LengthBias
from tiltlm.data.stats.lengths import summarise
from tiltlm.data.stats.needed import LearningCurve
from tiltlm.diagnostics.comparing.planning import half_width, prompts_needed
from tiltlm.report.numbers import format_number, share, with_bounds
from tiltlm.report.page import as_json, template_environment, write
from tiltlm.report.plots import FULL, HALF
from tiltlm.report.sections import Remark, SectionView
from tiltlm.report.svg import FIRST, MUTED, SECOND, figure, inline, styled
from tiltlm.report.tables import NONE, Cell, Table, TableRow, cell

LONGER_WINS = 0.6
"""P(the preferred response is longer) from which length says much about the label."""
MOST_SOURCES = 30
SMALL_SHARES = (0.52, 0.53, 0.55, 0.575, 0.6, 0.7)
"""Win rates of the table of sample sizes."""
ROLES = ("prompt", "chosen", "rejected", "desirable", "undesirable", "response")


def unit_of(statistics: DataStatistics) -> str:
    """Return the unit of length that says most: tokens where a tokenizer was given, else words."""
    return "tokens" if "tokens" in statistics.lengths else "words"


def sentences_of(statistics: DataStatistics) -> list[str]:
    """Return what the statistics say, the most important first."""
    per_prompt = statistics.prompt_counts()
    num_prompts = sum(per_prompt.values())
    rows = f"{statistics.num_rows:,} {'row' if statistics.num_rows == 1 else 'rows'} of {statistics.shape}"
    lines = [f"{rows} with {num_prompts:,} distinct prompts."]
    unit = unit_of(statistics)
    bias = statistics.lengths[unit].bias if unit in statistics.lengths else LengthBias()
    if (longer := bias.longer) is not None:
        lines.append(f"The preferred response is the longer one in {with_bounds(longer, percent=True)} of the pairs.")
        if longer.low > LONGER_WINS:
            lines.append("Length alone says much about the label: a policy may learn to write more.")
        elif longer.high < 1 - LONGER_WINS:
            lines.append("Length alone says much about the label: a policy may learn to write less.")
    if statistics.accounting.dropped:
        lines.append(f"{statistics.accounting.dropped:,} rows cannot be used.")
    return lines


def write_stats(path: Path, name: str, statistics: DataStatistics, curve: LearningCurve | None) -> None:
    """Write the page, and its JSON twin beside it.

    Args:
        path: The HTML file.
        name: Name of the data.
        statistics: What is in the data.
        curve: The learning curve, if it was asked for.

    Raises:
        RunError: A file cannot be written.
    """
    twin = path.with_suffix(".json")
    page = (
        template_environment()
        .get_template("study.html")
        .render(
            kicker="statistics of data",
            question="What is in it?",
            title=f"Statistics of {name}",
            facts={"Rows": f"{statistics.num_rows:,}", "Shape": statistics.shape},
            word="",
            colour="unclear",
            sentences=sentences_of(statistics),
            cautions=[],
            sections=list(sections_of(statistics, curve)),
            twin=twin.name,
        )
    )
    write(path, page)
    write(twin, as_json(content_of(name, statistics, curve)))


def content_of(name: str, statistics: DataStatistics, curve: LearningCurve | None) -> dict[str, object]:
    """Return everything as plain values for JSON."""
    return {
        "schema": "tiltlm.stats/1",
        "data": name,
        **statistics.as_dict(),
        "needed": curve,
        "win_rates": None if curve is None else [vars(row) for row in win_rate_rows()],
    }


def sections_of(statistics: DataStatistics, curve: LearningCurve | None) -> Iterator[SectionView]:
    """Yield the sections of the page."""
    yield SectionView("rows", "Rows", None, tables=[rows_table(statistics)])
    for unit, lengths in statistics.lengths.items():
        bias = lengths.bias
        figures = [length_figure(lengths.by_role, unit)]
        tables = [lengths_table(lengths.by_role, unit)]
        if bias.num_pairs:
            figures.append(gap_figure(bias, unit))
            tables.append(bias_table(bias, unit))
        yield SectionView(f"lengths-{unit}", f"Lengths in {unit}", None, tables=tables, figures=figures)
    if set(statistics.preferences) - {1.0}:
        yield SectionView("preferences", "Soft labels", None, figures=[preference_figure(statistics)])
    named = statistics.sources.most_common(MOST_SOURCES)
    if len(statistics.sources) > 1:
        yield SectionView("sources", "Sources", None, tables=[counts_table(dict(named), statistics.num_rows, "source")])
    if statistics.languages:
        total = statistics.languages.total()
        lead = f"Of the first {total:,} rows; in {statistics.other_language:,} a response has another language."
        table = counts_table(dict(statistics.languages.most_common(15)), total, "language of the prompt")
        yield SectionView("languages", "Languages", None, lead, [table])
    if curve is not None:
        yield needed_section(curve)


def rows_table(statistics: DataStatistics) -> Table:
    """Return what rows there are, and how diverse their prompts."""
    per_prompt = statistics.prompt_counts()
    found = [
        ("rows", "rows used", f"{statistics.num_rows:,}", ""),
        ("prompts", "distinct prompts", f"{sum(per_prompt.values()):,}", ""),
        ("most", "most rows of one prompt", f"{max(per_prompt, default=0):,}", ""),
    ]
    words = ("distinct words", "distinct pairs of words")
    for k, (title, counted) in enumerate(zip(words, statistics.words, strict=True)):
        if counted.share is not None:
            found.append((f"distinct-{k + 1}", title, share(counted.share), "of all in the prompts"))
    if statistics.labels:
        total = statistics.labels.total()
        found.append(("desirable", "desirable responses", share(statistics.labels[True] / total), "the label is true"))
    if statistics.turns:
        mean = sum(n * c for n, c in statistics.turns.items()) / statistics.turns.total()
        text = f"{format_number(mean)} (at most {max(statistics.turns):,})"
        found.append(("turns", "turns of a prompt", text, "of conversations"))
    if len(statistics.responses) > 1 or max(statistics.responses, default=1) > 2:
        mean = sum(n * c for n, c in statistics.responses.items()) / statistics.responses.total()
        found.append(("responses", "responses of a row", format_number(mean), "mean"))
    for cause, counts in sorted(statistics.accounting.losses.items()):
        found.append((cause, f"left out: {cause}", f"{counts.count:,}", counts.examples[0]))
    return Table(("",), tuple(TableRow(key, title, (Cell(text),), meaning) for key, title, text, meaning in found))


def lengths_table(by_role: Mapping[str, Mapping[int, float]], unit: str) -> Table:
    """Return mean, median and high percentiles of lengths."""
    columns = ("mean", "median", "95 %", "99.9 %", "longest")
    rows = []
    for role in (role for role in ROLES if role in by_role):
        found = summarise(by_role[role])
        assert found is not None
        cells = tuple(Cell(format_number(value)) for value in found.values())
        rows.append(TableRow(f"{unit}-{role}", role, cells))
    return Table(columns, tuple(rows), f"{unit} of")


def bias_table(bias: LengthBias, unit: str) -> Table:
    """Return how well length predicts the label."""
    auc = NONE if bias.num_pairs < 2 else Cell(f"{bias.auc:.3f}")
    rows = (
        TableRow("longer", "P(preferred is longer)", (cell(bias.longer, percent=True),), "equal lengths count ½"),
        TableRow("gap", f"mean difference, {unit}", (cell(bias.mean_gap, signed=True),), "preferred minus the other"),
        TableRow("auc", "AUC of the difference", (auc,), "how well it orders right and wrong; ½ is chance"),
        TableRow("pairs", "pairs with a preference", (Cell(f"{bias.num_pairs:,}"),)),
        TableRow("equal", "pairs of equal length", (Cell(f"{bias.num_equal:,}"),)),
        TableRow("ties", "ties", (Cell(f"{bias.num_ties:,}"),), "not counted above"),
    )
    return Table(("",), rows, title="Does length predict the label?")


def counts_table(counts: Mapping[str, int], total: int, heading: str) -> Table:
    """Return counts with their share."""
    rows = tuple(TableRow(k, k, (Cell(f"{n:,}"), Cell(share(n / max(1, total))))) for k, n in counts.items())
    return Table(("rows", "share"), rows, heading)


def length_figure(by_role: Mapping[str, Mapping[int, float]], unit: str) -> Markup:
    """Draw the distribution of the lengths of responses."""
    roles = [role for role in ROLES if role in by_role and role != "prompt"]
    top = max(summary["p95"] for role in roles if (summary := summarise(by_role[role])) is not None)
    width = math.ceil(1.25 * top / 40) or 1  # whole numbers, so that every bar covers equally many lengths
    edges = np.arange(42) * width - 0.5
    with styled():
        made = figure(HALF, 2.7)
        axes = made.subplots()
        for role, colour in zip(roles, (FIRST, SECOND), strict=False):
            values, weights = np.array(list(by_role[role])), np.array(list(by_role[role].values()), dtype=float)
            heights, _ = np.histogram(values, edges, weights=weights)
            axes.stairs(heights / weights.sum(), edges, color=colour, label=role, linewidth=1.8)
        axes.set_title(f"Length of responses, {unit}", pad=22)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.99), ncols=2, borderpad=0)
        return inline(made, f"lengths-{unit}", f"Distribution of the lengths of responses in {unit}")


def gap_figure(bias: LengthBias, unit: str) -> Markup:
    """Draw the distribution of the difference of two lengths."""
    # With a certain label only its own side is in the histogram; a soft one is on both.
    values = np.array(list(bias.gaps))
    weights = np.array(list(bias.gaps.values()), dtype=float)
    order = np.argsort(np.abs(values))
    reach = float(np.abs(values[order])[np.searchsorted(np.cumsum(weights[order]), 0.95 * weights.sum())])
    width = 2 * (math.ceil(1.25 * reach / 20) // 2) + 1  # odd, so that the middle bar is centred at 0
    edges = (np.arange(43) - 21) * width - width / 2
    with styled():
        made = figure(HALF, 2.7)
        axes = made.subplots()
        heights, _ = np.histogram(values, edges, weights=weights)
        axes.stairs(heights / weights.sum(), edges, color=FIRST, fill=True, alpha=0.5)
        axes.axvline(0, color=MUTED, linewidth=1, linestyle=(0, (3, 3)))
        axes.set_title(f"Preferred minus other, {unit}")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        return inline(made, f"gaps-{unit}", f"Distribution of the difference of lengths in {unit}")


def preference_figure(statistics: DataStatistics) -> Markup:
    """Draw how sure the labels are."""
    values = sorted(statistics.preferences)
    heights = [statistics.preferences[value] / statistics.preferences.total() for value in values]
    with styled():
        made = figure(HALF, 2.4)
        axes = made.subplots()
        axes.vlines(values, 0, heights, color=FIRST, linewidth=3)
        axes.set_title("P(preferred response is better), by the label")
        axes.set_xlim(0.48, 1.02)
        axes.set_ylim(0, None)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        return inline(made, "preferences", "How sure the labels are")


# How many labels are needed


class WinRateRow:
    """How many prompts show one win rate to differ from ½."""

    def __init__(self, rate: float) -> None:
        """Compute the numbers of a win rate."""
        self.win_rate = rate
        self.prompts = prompts_needed(rate - 0.5)
        self.half_width = half_width(self.prompts, rate=rate)


def win_rate_rows() -> list[WinRateRow]:
    """Return the table of sample sizes for a comparison of two systems."""
    return [WinRateRow(rate) for rate in SMALL_SHARES]


def needed_section(curve: LearningCurve) -> SectionView:
    """Return what a pilot says about more labels."""
    lead = (
        f"A small linear probe of words and lengths, trained on parts of {curve.num_labels:,} labels and tested on "
        "prompts that it has not seen. It is no language model: it shows whether more labels of this kind still teach "
        "something simple."
    )
    absent = Remark(curve.code, f"Not continued: {curve.reason}.") if curve.reason else None
    rows = [TableRow(f"n{m.labels}", f"{m.labels:,}", (cell(m.accuracy, percent=True), NONE)) for m in curve.measured]
    rows += [
        TableRow(f"n{m.labels}", f"{m.labels:,}, continued", (cell(m.accuracy, percent=True), _points(gain)))
        for m, gain in zip(curve.projected, curve.gains, strict=True)
    ]
    tables = [Table(("held-out accuracy", "gain"), tuple(rows), "labels")] if rows else []
    figures = [curve_figure(curve)] if curve.measured else []
    plan = tuple(
        TableRow(f"w{r.win_rate}", f"{r.win_rate:.1%}", (Cell(f"{r.prompts:,}"), Cell(f"± {r.half_width:.1%}")))
        for r in win_rate_rows()
    )
    title = "Prompts that show a win rate to differ from ½ (80 % power)"
    tables.append(Table(("prompts", "interval"), plan, "true win rate", title))
    return SectionView("needed", "How many labels are needed?", absent, lead, tables, figures)


def _points(gain: object) -> Cell:
    return cell(gain, percent=True, signed=True)  # type: ignore[arg-type]


def curve_figure(curve: LearningCurve) -> Markup:
    """Draw accuracy against the number of labels, measured and continued."""
    with styled():
        made = figure(FULL, 3.0)
        axes = made.subplots()
        for points, colour, fmt in ((curve.measured, FIRST, "o-"), (curve.projected, SECOND, "s--")):
            if points:
                n = [m.labels for m in points]
                mid = [m.accuracy.estimate for m in points]
                axes.plot(n, mid, fmt, color=colour, markersize=4.5)
                axes.fill_between(
                    n, [m.accuracy.low for m in points], [m.accuracy.high for m in points], color=colour, alpha=0.15
                )
        axes.set_xscale("log")
        axes.axhline(0.5, color=MUTED, linewidth=1, linestyle=(0, (3, 3)))
        axes.set_xlabel("labels")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.yaxis.set_major_locator(MaxNLocator(6))
        axes.set_title("Held-out accuracy of the probe; the second line is continued")
        return inline(made, "learning-curve", "Held-out accuracy of the probe against the number of labels")
