"""The page of a comparison of systems: compare.html, compare.json, and a Markdown summary."""

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from tiltlm.diagnostics import Interval
from tiltlm.evaluation.answers.system_comparison import PairOfSystems, SystemComparison
from tiltlm.report.answers.compare_figures import category_figure, rate_figure, strength_figure, temperature_figure
from tiltlm.report.answers.compare_words import Headline, cautions_of, headline, p_text, sentence_of
from tiltlm.report.answers.markdown import markdown_summary, write_markdown
from tiltlm.report.numbers import estimate, format_number, share
from tiltlm.report.page import as_json, template_environment, write
from tiltlm.report.sections import SectionView
from tiltlm.report.tables import NONE, Cell, Table, TableRow, cell
from tiltlm.report.tiles import Tile

__all__ = ["Headline", "headline", "render_compare", "sentence_of", "summary_lines", "write_compare"]

PAGE, TWIN, SUMMARY = "compare.html", "compare.json", "compare.md"
SCHEMA = "tiltlm.compare/1"

NUMBERS = {
    "score": ("score", "mean score by the judge", False),
    "length": ("characters", "mean length of an answer", False),
    "refusals": ("refusals", "answers that open like a refusal, by a plain list of openings", True),
    "cut": ("cut", "answers that were cut at the longest length", True),
    "distinct_2": ("distinct-2", "distinct pairs of neighbouring words in the answers to a prompt", True),
}
"""Number of a system → its name, its meaning, and whether it is a share."""

OUTCOMES = {
    "win": "first better",
    "tie": "tie",
    "identical": "same text",
    "loss": "second better",
    "inconsistent": "contradiction",
    "both_bad": "both bad",
    "error": "failed",
}


def title_of(comparison: SystemComparison) -> str:
    """Return the title of the page."""
    names = [system.name for system in comparison.systems]
    return " against ".join(names) if len(names) == 2 else "Comparison of " + ", ".join(names)


def facts_of(comparison: SystemComparison) -> dict[str, str]:
    """Return the main facts: prompts, answers, judge."""
    counts = {system.num_answers for system in comparison.systems}
    several = len(comparison.temperatures) > 1 or comparison.temperatures[0] is not None
    return {
        "Prompts": f"{comparison.num_prompts:,}",
        "Answers of each system": " or ".join(f"{count:,}" for count in sorted(counts)),
        **({"Temperatures": ", ".join(f"{t:g}" for t in comparison.temperatures if t is not None)} if several else {}),
        "Judge": f"{comparison.judge} {comparison.judge_digest[:8]}".strip(),
    }


def rates_table(comparison: SystemComparison) -> Table:
    """Return the win rates, one row for each pair of systems."""
    rows = []
    for pair in comparison.pairs:
        rate = pair.win_rate if pair.has_headline else None
        p_value = NONE if rate is None or pair.adjusted_p is None else Cell(p_text(pair.adjusted_p))
        control = pair.length_control
        at_equal = cell(control.rate, percent=True) if control and rate else Cell("–", _short(pair))
        cells = (cell(rate.rate, percent=True) if rate else NONE, at_equal, p_value)
        rows.append(TableRow(f"{pair.first}/{pair.second}", f"{pair.first} against {pair.second}", cells))
    several = ", Holm" if len(comparison.pairs) > 1 else ""
    return Table(("win rate of the first", "at equal length", f"p{several}"), tuple(rows))


def _short(pair: PairOfSystems) -> str:
    reason = pair.no_length_control
    return {"too_few_prompts": "too few prompts", "poor_overlap": "lengths differ too much"}.get(
        reason.code if reason else "", ""
    )


def counts_table(comparison: SystemComparison) -> Table:
    """Return how often each outcome came out."""
    rows = []
    for pair in comparison.pairs:
        total = max(1, sum(pair.counts.values()))
        cells = tuple(
            Cell(share(pair.counts[key] / total), f"{pair.counts[key]:,}" if pair.counts[key] else "")
            for key in OUTCOMES
        )
        rows.append(TableRow(f"{pair.first}/{pair.second}", f"{pair.first} against {pair.second}", cells))
    return Table(tuple(OUTCOMES.values()), tuple(rows))


def systems_table(comparison: SystemComparison) -> Table:
    """Return the numbers of each system's answers, and with two systems their difference."""
    two = len(comparison.systems) == 2
    pair = comparison.pairs[0]
    rows = []
    for key, (name, meaning, percent) in NUMBERS.items():
        found = [system.numbers.get(key) for system in comparison.systems]
        if not any(found):
            continue
        gap = pair.score_difference if key == "score" else pair.shifts.get(key)
        cells = [cell(number, percent=percent) for number in found]
        rows.append(TableRow(key, name, (*cells, *([cell(gap, percent=percent, signed=True)] if two else [])), meaning))
    for key, name, meaning in (
        ("distance", "distance", "mean distance of two answers to one prompt, 1 − Jaccard of word 3-grams"),
        ("duplicates", "duplicates", "answers that repeat another answer to the same prompt"),
    ):
        values = [float(getattr(system, key)) for system in comparison.systems]
        if all(value == value for value in values):
            cells = [Cell(share(value) if key == "duplicates" else format_number(value, 2)) for value in values]
            rows.append(TableRow(key, name, (*cells, *([NONE] if two else [])), meaning))
    if any(system.trained_on is not None for system in comparison.systems):
        known = [NONE if s.trained_on is None else Cell(f"{s.trained_on:,}") for s in comparison.systems]
        meaning = "prompts of this comparison in the system's own training data"
        rows.append(TableRow("trained_on", "trained on", (*known, *([NONE] if two else [])), meaning))
    columns = (*(system.name for system in comparison.systems), *(["difference"] if two else []))
    return Table(columns, tuple(rows))


def tiles_of(comparison: SystemComparison) -> list[Tile]:
    """Return the most important numbers of two systems; none for several."""
    if len(comparison.pairs) != 1 or not comparison.pairs[0].has_headline:
        return []
    pair = comparison.pairs[0]
    assert pair.win_rate is not None, "a headline has a win rate"
    tiles = [_tile(f"win rate of {pair.first}", pair.win_rate.rate)]
    if pair.length_control is not None:
        tiles.append(_tile("win rate at equal length", pair.length_control.rate))
    total = max(1, sum(pair.counts.values()))
    ties = pair.counts["tie"] + pair.counts["identical"]
    tiles.append(Tile("ties", share(ties / total), f"{pair.counts['identical']:,} with the same text"))
    length = pair.shifts["length"]
    shown = cell(length, signed=True)
    tiles.append(Tile("difference in length, characters", shown.value, shown.note))
    return tiles


def _tile(name: str, interval: Interval) -> Tile:
    shown = cell(interval, percent=True)
    return Tile(name, shown.value, shown.note)


def sections_of(comparison: SystemComparison) -> list[SectionView]:
    """Return the sections of the page."""
    views = [
        _view(
            "rates",
            "Win rates",
            "P(the first is better), ties and contradictions counted half: the mean over the pairs of answers to a "
            "prompt, then over its temperatures, then over prompts. Small print: 95 % intervals by bootstrap over "
            "prompts. The rate at equal length is the prediction of a logistic regression on the difference in length.",
            [rates_table(comparison)],
            [rate_figure(comparison)] if len(comparison.pairs) > 1 else [],
        )
    ]
    if comparison.strengths is not None:
        views.append(_strengths(comparison))
    if len(comparison.temperatures) > 1:
        lead = "The win rate at each temperature, with 95 % intervals."
        views.append(_view("temperatures", "Temperature", lead, [], [temperature_figure(comparison)]))
    if any(pair.by_category for pair in comparison.pairs):
        lead = "Small print: 95 % intervals. p-values are adjusted by Holm for the number of categories."
        tables = [_categories(pair) for pair in comparison.pairs if pair.by_category]
        figures = [category_figure(pair, i) for i, pair in enumerate(comparison.pairs) if pair.by_category]
        views.append(_view("categories", "By category", lead, tables, figures))
    lead = "Pairs of answers. Contradictions are pairs whose two orders gave opposite verdicts; what failed or was bad "
    lead += "on both sides is left out of the win rate."
    views.append(_view("outcomes", "How judgements came out", lead, [counts_table(comparison)]))
    views.append(_view("answers", "What else differs", "", [systems_table(comparison)]))
    return views


def _strengths(comparison: SystemComparison) -> SectionView:
    found = comparison.strengths
    assert found is not None, "called with strengths"
    rows = []
    for name, strength, ranks in zip(found.names, found.strengths, found.ranks, strict=True):
        rank = f"{ranks[0]}" if ranks[0] == ranks[1] else f"{ranks[0]} to {ranks[1]}"
        rows.append((strength.estimate, TableRow(name, name, (cell(strength), Cell(rank)))))
    ordered = tuple(row for _, row in sorted(rows, key=lambda row: -row[0]))
    zero = f"{found.anchor} is 0" if found.anchor else "their mean is 0"
    lead = f"Log-odds by the model of Bradley and Terry, ties as half wins; {zero}. Two systems that are 1 apart: the "
    lead += "stronger one wins 73 %."
    if found.without_limit:
        lead += f" {', '.join(found.without_limit)}: won or lost everything, so only the penalty bounds this."
    table = Table(("strength", "rank"), ordered)
    return _view("strength", "Strength", lead, [table], [strength_figure(found)])


def _categories(pair: PairOfSystems) -> Table:
    rows = tuple(
        TableRow(
            rate.name,
            rate.name,
            (
                cell(rate.win_rate.rate, percent=True),
                Cell(p_text(rate.adjusted_p)),
                Cell(f"{rate.win_rate.num_prompts:,}"),
            ),
        )
        for rate in pair.by_category
    )
    return Table((f"win rate of {pair.first}", "p, Holm", "prompts"), rows, title=f"{pair.first} against {pair.second}")


def _view(key: str, title: str, lead: str, tables: Sequence[Table] = (), figures: Sequence[Markup] = ()) -> SectionView:
    return SectionView(key, title, None, lead, tables, figures)


def render_compare(comparison: SystemComparison) -> str:
    """Return the page as HTML."""
    return (
        template_environment()
        .get_template("compare.html")
        .render(
            title=title_of(comparison),
            facts=facts_of(comparison),
            headline=headline(comparison),
            tiles=tiles_of(comparison),
            sections=sections_of(comparison),
            pairs=comparison.pairs,
            num_systems=len(comparison.systems),
            twin=TWIN,
        )
    )


def write_compare(folder: Path, comparison: SystemComparison, *, markdown: bool = False) -> Path:
    """Write compare.html and compare.json, and with `markdown` compare.md.

    Returns:
        The path of compare.html.

    Raises:
        RunError: a file cannot be written.
    """
    first = headline(comparison)
    content = {
        "schema": SCHEMA,
        "title": title_of(comparison),
        "outcome": first.outcome,
        "sentences": first.sentences,
        "cautions": {remark.key: remark.text for remark in first.cautions},
        **vars(comparison),
    }
    write(folder / TWIN, as_json(content))
    write(folder / PAGE, render_compare(comparison))
    if markdown:
        write_markdown(folder / SUMMARY, compare_markdown(comparison))
    return folder / PAGE


def compare_markdown(comparison: SystemComparison) -> str:
    """Return the summary for a pull request or a model card."""
    first = headline(comparison)
    facts = ", ".join(f"{name.lower()} {text}" for name, text in facts_of(comparison).items())
    tables = [rates_table(comparison), systems_table(comparison)]
    cautions = [remark.text for remark in first.cautions]
    return markdown_summary(title_of(comparison), first.sentences, tables, cautions, facts)


def summary_lines(comparison: SystemComparison) -> list[str]:
    """Return what a terminal prints: verdict, cautions, the most important numbers."""
    lines = [*headline(comparison).sentences, ""]
    lines += [f"- {remark.text}" for remark in cautions_of(comparison)]
    for pair in comparison.pairs:
        title = f"{pair.first} against {pair.second}" if len(comparison.pairs) > 1 else "pairs of answers"
        outcomes = ", ".join(f"{OUTCOMES[key]} {pair.counts[key]:,}" for key in OUTCOMES if pair.counts[key])
        lines.append(f"{title}: {outcomes}")
        if pair.length_control is not None:
            control = pair.length_control
            lines.append(f"  at equal length {estimate(control.rate, percent=True)} ({_ends(control.rate)})")
        elif pair.no_length_control is not None:
            lines.append(f"  {pair.no_length_control}")
    return lines


def _ends(interval: Interval) -> str:
    return cell(interval, percent=True).note
