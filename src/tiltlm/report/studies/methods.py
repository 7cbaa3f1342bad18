"""The page of methods compared: methods.html, methods.json, and a Markdown summary."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tiltlm.diagnostics import Interval
from tiltlm.evaluation.answers.method_comparison import MethodComparison, MethodPair, MethodResult, TrialResult
from tiltlm.evaluation.answers.plane import knob_text
from tiltlm.report.answers.markdown import markdown_summary, write_markdown
from tiltlm.report.numbers import with_bounds
from tiltlm.report.page import as_json, template_environment, write
from tiltlm.report.plots import FULL
from tiltlm.report.sections import Remark, SectionView
from tiltlm.report.studies.frontier_figures import kl_axis
from tiltlm.report.svg import FIRST, INK, MUTED, figure, inline, styled
from tiltlm.report.tables import Cell, Table, TableRow, cell

PAGE, TWIN, SUMMARY = "methods.html", "methods.json", "methods.md"
SCHEMA = "tiltlm.methods/1"
FEW_SEEDS, FEW_PROMPTS = 3, 20
TITLE = "Methods compared"


def sentences_of(found: MethodComparison) -> list[str]:
    """Return what came out, in sentences."""
    best = found.methods[0]
    sentences = [
        f"{best.method} is best by {found.measure}: {_value(found, best.value)} at {knob_text(best.settings)}, on "
        f"{found.num_reporting} prompts that did not choose this setting{_at_kl(best)}."
    ]
    if len(found.methods) == 1:
        return sentences
    alike = found.not_told_apart
    if len(alike) == len(found.methods) - 1:
        sentences.append("No other method can be told apart from it.")
        return sentences
    if alike:
        sentences.append(f"It cannot be told apart from {', '.join(alike)}.")
    worse = [(pair, _of(pair, best.method)) for pair in found.pairs if _is_worse(pair, best.method)]
    texts = [f"{name} ({_value(found, difference, signed=True)})" for _, (name, difference) in worse]
    sentences.append(f"Clearly worse: {', '.join(texts)}.")
    return sentences


def _at_kl(result: MethodResult) -> str:
    return "" if result.kl is None else f", with a KL of {with_bounds(result.kl)} nats"


def _value(found: MethodComparison, interval: Interval, *, signed: bool = False) -> str:
    return with_bounds(interval, percent=found.is_share, signed=signed)


def _is_worse(pair: MethodPair, best: str) -> bool:
    return best in (pair.first, pair.second) and pair.is_told_apart


def _of(pair: MethodPair, best: str) -> tuple[str, Interval]:
    """Return the other method of a pair with its difference to the best one."""
    d = pair.difference
    if pair.second == best:
        return pair.first, d
    return pair.second, Interval(-d.estimate, -d.high, -d.low, d.level, d.n)


def cautions_of(found: MethodComparison) -> Iterator[Remark]:
    """Yield what limits the comparison, each with what can be done."""
    seeds = min(result.num_seeds for result in found.methods)
    if seeds < FEW_SEEDS:
        yield Remark(
            "few_seeds",
            f"A method has {seeds} {'run' if seeds == 1 else 'runs'} of its chosen setting, so little is known of how "
            "much the seed changes. Use --seeds 3 or more.",
        )
    if found.num_reporting < FEW_PROMPTS:
        yield Remark(
            "few_prompts",
            f"Methods are compared on {found.num_reporting} prompts only; hold out more (data.eval_fraction), or raise "
            "--limit.",
        )
    far = [r for r in found.methods if r.kl is not None]
    if len(far) > 1 and found.max_kl is None:
        low, high = min(far, key=lambda r: _kl(r)), max(far, key=lambda r: _kl(r))
        if _kl(high) > 2 * max(_kl(low), 0.1):
            yield Remark(
                "unlike_kl",
                f"The methods are at unlike distances: {low.method} at a KL of {_kl(low):.2g} nats, {high.method} at "
                f"{_kl(high):.2g}. More KL can buy more reward; with --max-kl, only settings that stay below it are "
                "chosen.",
            )
    for method, reason in found.without.items():
        yield Remark("without", f"{method} has no result: {reason}.")
    for run, error in found.failed.items():
        yield Remark("failed", f"The run {run} failed: {error}")


def _kl(result: MethodResult) -> float:
    return 0.0 if result.kl is None else result.kl.estimate


def table_of(found: MethodComparison) -> Table:
    """Return one row for each method, the best first."""
    rows = []
    for result in found.methods:
        chosen = next(trial for trial in result.trials if trial.is_chosen)
        cells = (
            cell(result.value, percent=found.is_share),
            cell(result.kl),
            cell(chosen.chooses, percent=found.is_share),
            Cell(str(result.num_seeds)),
        )
        setting = f"{knob_text(result.settings)}, best of {len(result.trials)}"
        rows.append(TableRow(result.method, result.method, cells, meaning=setting))
    return Table((found.measure, "KL, nats", "when it was chosen", "seeds"), tuple(rows))


def pair_table(found: MethodComparison) -> Table:
    """Return one row for each pair of methods, the clearest difference first."""
    rows = []
    for pair in sorted(found.pairs, key=lambda pair: (pair.adjusted_p, -abs(pair.difference.estimate))):
        cells = (
            cell(pair.difference, percent=found.is_share, signed=True),
            Cell(f"{pair.adjusted_p:.2g}", f"alone {pair.p_value:.2g}"),
            Cell("yes" if pair.is_told_apart else "no"),
        )
        rows.append(TableRow(f"{pair.first}/{pair.second}", f"{pair.first} − {pair.second}", cells))
    return Table(("difference", "p", "told apart"), tuple(rows))


def trial_tables(found: MethodComparison) -> list[Table]:
    """Return one table for each method with all settings that were tried."""
    tables = []
    for result in found.methods:
        rows = [_trial_row(found, trial) for trial in result.trials]
        columns = ("when choosing", "on the other half", "KL, nats", "")
        tables.append(Table(columns, tuple(rows), title=result.method))
    return tables


def _trial_row(found: MethodComparison, trial: TrialResult) -> TableRow:
    word = "chosen" if trial.is_chosen else "KL too large" if trial.is_too_far else ""
    values = (cell(trial.chooses, percent=found.is_share), cell(trial.reports, percent=found.is_share))
    return TableRow(trial.name, knob_text(trial.settings), (*values, cell(trial.kl), Cell(word)))


def plane_figure(found: MethodComparison) -> Markup:
    """Draw the value over KL: methods with their intervals, and all trials as small dots."""
    scale = 100 if found.is_share else 1
    with styled():
        made = figure(FULL, 4.0)
        axes = made.subplots()
        for result in found.methods:
            for trial in result.trials:
                if trial.kl is not None:
                    axes.plot([trial.kl.estimate], [scale * trial.reports.estimate], ".", color=MUTED, alpha=0.6)
        for result in found.methods:
            if result.kl is None:
                continue
            low, mid, high = (scale * x for x in (result.value.low, result.value.estimate, result.value.high))
            x = result.kl.estimate
            axes.plot([x, x], [low, high], color=FIRST, linewidth=1.6)
            axes.plot([max(result.kl.low, 0), result.kl.high], [mid, mid], color=FIRST, linewidth=1.6)
            axes.plot([x], [mid], "o", color=FIRST, markersize=6)
            axes.annotate(result.method, (x, mid), (6, 6), textcoords="offset points", color=INK, fontsize=8)
        seen = [trial.kl.estimate for result in found.methods for trial in result.trials if trial.kl is not None]
        seen += [result.kl.estimate for result in found.methods if result.kl is not None]
        kl_axis(axes, 1.2 * max([*seen, 0.1]))
        axes.set_ylabel(found.measure + (", %" if found.is_share else ""))
        axes.margins(y=0.12)
        return inline(made, "methods", f"{found.measure} over KL, one mark per method")


def sections_of(found: MethodComparison) -> list[SectionView]:
    """Return the sections of the page."""
    lead = (
        "Every method had the same number of trials, each with one seed. Its setting was chosen on "
        f"{found.num_choosing} prompts and trained again with new seeds; the numbers are of {found.num_reporting} "
        "other prompts. Small print: 95 % intervals over seeds and prompts together; of a KL, over seeds (Student's). "
    )
    if found.max_kl is not None:
        lead += f"Only settings with a KL of at most {found.max_kl:g} nats could be chosen. "
    lead += "The column 'when it was chosen' is the best of several trials, so it is usually too high."
    lead += " Small dots in the picture are trials."
    figures = [plane_figure(found)] if any(result.kl is not None for result in found.methods) else []
    views = [SectionView("methods", "Methods", None, lead, [table_of(found)], figures)]
    if found.pairs:
        text = (
            "Differences are paired by prompt. p is adjusted for the number of pairs (Holm); below 0.05 the two are "
            "told apart. That two cannot be told apart does not show that they are equal."
        )
        views.append(SectionView("pairs", "Which can be told apart", None, text, [pair_table(found)]))
    views.append(SectionView("trials", "All trials", None, "", trial_tables(found)))
    return views


def facts_of(found: MethodComparison) -> dict[str, str]:
    """Return the main facts."""
    trials = len(found.methods[0].trials)
    return {
        "Measure": found.measure,
        "Methods": f"{len(found.methods):,}",
        "Trials a method": f"{trials:,}",
        "Prompts": f"{found.num_choosing:,} choose, {found.num_reporting:,} report",
    }


def rows_of(found: MethodComparison) -> list[dict[str, Any]]:
    """Return the numbers of each method as plain values."""
    rows = []
    for result in found.methods:
        row: dict[str, Any] = {"method": result.method, **result.settings, "num_seeds": result.num_seeds}
        named: Mapping[str, Interval | None] = {"value": result.value, "kl": result.kl}
        for name, value in named.items():
            if value is not None:
                row |= {name: value.estimate, f"{name}_low": value.low, f"{name}_high": value.high}
        rows.append(row)
    return rows


def render_methods(found: MethodComparison) -> str:
    """Return the page as HTML."""
    cautions = list(cautions_of(found))
    return (
        template_environment()
        .get_template("study.html")
        .render(
            kicker="methods",
            title=TITLE,
            facts=facts_of(found),
            question="Which method is best on this data?",
            word="",
            colour="cautious" if cautions else "",
            sentences=sentences_of(found),
            cautions=cautions,
            sections=sections_of(found),
            twin=TWIN,
        )
    )


def write_methods(folder: Path, found: MethodComparison, *, markdown: bool = False) -> Path:
    """Write methods.html and methods.json, and with `markdown` methods.md.

    Returns:
        The path of the page.

    Raises:
        RunError: a file cannot be written.
    """
    cautions, sentences = list(cautions_of(found)), sentences_of(found)
    content = {
        "schema": SCHEMA,
        "sentences": sentences,
        "cautions": [{"key": remark.key, "text": remark.text} for remark in cautions],
        **vars(found),
    }
    write(folder / TWIN, as_json(content))
    write(folder / PAGE, render_methods(found))
    if markdown:
        facts = ", ".join(f"{name.lower()} {text}" for name, text in facts_of(found).items())
        texts = [remark.text for remark in cautions]
        write_markdown(folder / SUMMARY, markdown_summary(TITLE, sentences, [table_of(found)], texts, facts))
    return folder / PAGE
