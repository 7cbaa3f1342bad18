"""The figures of a comparison of systems."""

from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.ticker import PercentFormatter

from tiltlm.diagnostics.comparing.strength import Strengths
from tiltlm.evaluation.answers.system_comparison import PairOfSystems, SystemComparison
from tiltlm.report.plots import FULL, Whisker, whiskers
from tiltlm.report.svg import FIRST, MUTED, SECOND, THIRD, figure, inline, styled

COLOURS = (FIRST, SECOND, THIRD)
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)))


def _forest(rows: Sequence[Whisker], name: str, label: str, reference: float, *, percent: bool) -> Markup:
    with styled():
        made = figure(FULL, 0.6 + 0.34 * len(rows))
        axes = made.subplots()
        whiskers(axes, rows, reference=reference, percent=percent)
        axes.set_xlabel(label)
        return inline(made, name, label)


def rate_figure(comparison: SystemComparison) -> Markup:
    """Draw the win rates of all pairs of systems."""
    rows = [
        Whisker(f"{pair.first} / {pair.second}", pair.win_rate.rate)
        for pair in comparison.pairs
        if pair.win_rate is not None and pair.has_headline
    ]
    return _forest(rows, "rates", "win rate of the first; dashed line: no difference", 0.5, percent=True)


def strength_figure(strengths: Strengths) -> Markup:
    """Draw the strengths, the strongest at the top."""
    order = sorted(range(len(strengths.names)), key=lambda k: -strengths.strengths[k].estimate)
    rows = [Whisker(strengths.names[k], strengths.strengths[k]) for k in order]
    return _forest(rows, "strengths", "strength, log-odds", 0.0, percent=False)


def category_figure(pair: PairOfSystems, index: int) -> Markup:
    """Draw the win rate of each category."""
    rows = [Whisker(rate.name, rate.win_rate.rate) for rate in pair.by_category]
    if pair.win_rate is not None:
        rows.append(Whisker("all prompts", pair.win_rate.rate, THIRD))
    label = f"win rate of {pair.first} against {pair.second}"
    return _forest(rows, f"categories-{index}", label, 0.5, percent=True)


def temperature_figure(comparison: SystemComparison) -> Markup:
    """Draw the win rate over the temperature, one line for each pair of systems, with bands."""
    with styled():
        made = figure(FULL, 3.4)
        axes = made.subplots()
        for k, pair in enumerate(comparison.pairs):
            known = [(t, w.rate) for t, w in pair.by_temperature if t is not None]
            if not known:
                continue
            at, rates = [t for t, _ in known], [rate for _, rate in known]
            colour, dashes = COLOURS[k % 3], DASHES[k // 3 % 3]
            axes.fill_between(
                at, [100 * r.low for r in rates], [100 * r.high for r in rates], color=colour, alpha=0.14, linewidth=0
            )
            label = f"{pair.first} against {pair.second}"
            axes.plot(at, [100 * r.estimate for r in rates], "o", linestyle=dashes, color=colour, label=label)
        axes.axhline(50, color=MUTED, linewidth=1, linestyle=(0, (3, 3)), zorder=0.5)
        axes.set_xlabel("temperature")
        axes.set_ylabel("win rate of the first")
        axes.yaxis.set_major_formatter(PercentFormatter(decimals=0))
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.99), ncols=min(3, len(comparison.pairs)), borderpad=0)
        return inline(made, "temperatures", "Win rate over temperature")
