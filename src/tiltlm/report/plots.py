"""The figures of a report."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from tiltlm.diagnostics import Interval
from tiltlm.evaluation import Contrast, Gold, HeldOut, Line
from tiltlm.evaluation.contrast import SIDES
from tiltlm.report.series import Series
from tiltlm.report.svg import CARD, FIRST, GRID, INK, MUTED, SECOND, THIRD, figure, inline, styled

HALF = 4.55
"""Width in inches of a figure that has half of the page's width."""
FULL = 9.2
"""Width in inches of a figure that has the full width."""
STEPS = (1, 2, 5, 10)
"""Distances between ticks, times a power of ten."""


@dataclass(frozen=True)
class Whisker:
    """One row of a plot of intervals."""

    label: str
    interval: Interval
    colour: str = FIRST
    is_filled: bool = True


def whiskers(axes: Axes, rows: Sequence[Whisker], *, reference: float | None = None, percent: bool = False) -> None:
    """Draw estimates as dots with their intervals as bars, one below the other, in the order given.

    Args:
        axes: Where to draw.
        rows: Estimates and labels.
        reference: Position of a dashed line, if there is one.
        percent: Show shares as percentages.
    """
    scale = 100 if percent else 1
    for y, row in enumerate(rows):
        low, mid, high = (scale * x for x in (row.interval.low, row.interval.estimate, row.interval.high))
        axes.plot([low, high], [y, y], color=row.colour, linewidth=2.2, solid_capstyle="round")
        face = row.colour if row.is_filled else CARD
        axes.plot([mid], [y], "o", color=row.colour, markerfacecolor=face, markersize=6, markeredgewidth=1.6)
    if reference is not None:
        axes.axvline(scale * reference, color=MUTED, linewidth=1, linestyle=(0, (3, 3)), zorder=0.5)
    labels = [row.label if len(row.label) <= 40 else f"{row.label[:39]}…" for row in rows]
    axes.set_yticks(range(len(rows)), labels, color=INK)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.06)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=STEPS))
    if percent:
        axes.xaxis.set_major_formatter(PercentFormatter(decimals=0))


def accuracy_figure(held_out: HeldOut, contrast: Contrast) -> Markup:
    """Draw the ranking accuracies of the policies, of likelihoods and of the length rule."""
    rows = [Whisker(f"trained {held_out.learner}", contrast.accuracy.after)]
    if not held_out.starts_at_reference:
        rows.append(Whisker(f"untrained {held_out.learner}", contrast.accuracy.before, is_filled=False))
    if contrast.mean_accuracy is not None:
        rows.append(Whisker("likelihood per token, trained", contrast.mean_accuracy.after, THIRD))
        rows.append(Whisker("likelihood per token, untrained", contrast.mean_accuracy.before, THIRD, False))
    rows.append(Whisker(f"length rule ({contrast.length_rule} wins)", contrast.length_accuracy, SECOND))
    with styled():
        made = figure(FULL, 0.55 + 0.32 * len(rows))
        axes = made.subplots()
        whiskers(axes, rows, reference=0.5, percent=True)
        axes.set_xlabel("share of comparisons ranked as in the data; dashed line: guessing at random")
        return inline(made, "accuracy", "Ranking accuracies with intervals")


@dataclass(frozen=True)
class PlotLine:
    """A metric to draw, with its label and colour."""

    name: str
    label: str
    colour: str


def over_training(
    series: Sequence[Series], curves: Sequence[PlotLine], name: str, title: str, *, zero: float | None = None
) -> Markup | None:
    """Draw metrics over the steps of training: held-out values as dots on lines, training batches as faint lines.

    Args:
        series: Curves of the run.
        curves: Metrics to draw.
        name: Name of the figure, unique on the page.
        title: Title of the figure.
        zero: Position of a dashed line, if there is one.

    Returns:
        The figure; None if none of the metrics was measured.
    """
    found = {(s.name, s.part): s for s in series}
    if not any(curve.name == s.name for curve in curves for s in series):
        return None
    with styled():
        made = figure(HALF, 2.7)
        axes = made.subplots()
        for curve in curves:
            batches, held_out = found.get((curve.name, "train")), found.get((curve.name, "held_out"))
            if batches is not None:
                faint: dict[str, Any] = {"alpha": 0.4, "linewidth": 1.2} if held_out is not None else {}
                axes.plot(batches.steps, batches.values, color=curve.colour, **faint)
            if held_out is not None:
                size = 4.5 if len(held_out.steps) <= 24 else 0
                axes.plot(held_out.steps, held_out.values, "o-", color=curve.colour, markersize=size)
        if zero is not None:
            axes.axhline(zero, color=MUTED, linewidth=1, linestyle=(0, (3, 3)), zorder=0.5)
        axes.set_title(title, pad=22 if len(curves) > 1 else 8)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=STEPS, integer=True))
        if len(curves) > 1:
            handles = [axes.plot([], [], color=c.colour, label=c.label)[0] for c in curves]
            axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(-0.02, 0.99), ncols=len(curves), borderpad=0)
        return inline(made, name, title)


def training_figures(series: Sequence[Series], contrast: Contrast | None) -> list[Markup]:
    """Draw all metrics that were measured. Log-probabilities and margin come first, because they show displacement."""
    better, worse = SIDES["pairs"] if contrast is None else contrast.sides
    logps = [
        PlotLine("logps_per_token/chosen", better, FIRST),
        PlotLine("logps_per_token/rejected", worse, SECOND),
    ]
    rewards = [PlotLine("rewards/chosen", better, FIRST), PlotLine("rewards/rejected", worse, SECOND)]
    drawn = [
        over_training(series, logps, "logps", "Log-probability, nats per token"),
        over_training(series, [PlotLine("rewards/margins", "margin", FIRST)], "margins", "Reward margin", zero=0),
        over_training(series, rewards, "rewards", "Rewards", zero=0),
        over_training(
            series, [PlotLine("rewards/accuracies", "accuracy", FIRST)], "accuracies", "Ranking accuracy", zero=0.5
        ),
        over_training(series, [PlotLine("loss", "loss", FIRST)], "loss", "Loss"),
        over_training(series, [PlotLine("nll", "nll", FIRST)], "nll", "Negative log-likelihood, nats per token"),
        over_training(series, [PlotLine("kl", "z0", FIRST)], "kl", "KTO's baseline z0, nats per response"),
    ]
    return [made for made in drawn if made is not None]


def frontier_figure(gold: Gold) -> Markup:
    """Draw reward over KL: the frontier, best-of-n, the untrained and the trained policy."""
    found = gold.attainment
    with styled():
        made = figure(FULL, 4.2)
        axes = made.subplots()
        limit = _visible_kl(gold)
        _line(axes, gold.tilt, limit, FIRST, "frontier: highest reward at each KL")
        best = _line(axes, gold.best_of_n, limit, SECOND, "best of n untrained responses", marker="s")
        for n, kl, reward in best:
            axes.annotate(f"n = {n:.0f}", (kl, reward), (5, -10), textcoords="offset points", color=MUTED, fontsize=8)
        axes.plot([0], [found.reference.estimate], "D", color=INK, markersize=6, label="untrained policy", zorder=4)
        _cross(axes, found.kl, found.policy)
        axes.set_xlabel("KL from the untrained policy, nats per response")
        axes.set_ylabel(gold.label)
        axes.set_xlim(-0.02 * limit, limit)
        axes.legend(loc="lower right")
        return inline(made, "frontier", f"{gold.label} over KL: frontier, best of n, the policy")


def _visible_kl(gold: Gold) -> float:
    """Return the largest KL to draw: about twice that of the policy, so that the policy is not at the edge."""
    high = gold.attainment.kl.high
    of_policy = max(gold.attainment.kl.estimate, high if np.isfinite(high) else 0.0)
    of_curves = max([*gold.tilt.kl, *gold.best_of_n.kl, 0.1])
    return float(max(1.1 * of_policy, min(1.05 * of_curves, max(2 * of_policy, 1.0))))


def _line(
    axes: Axes, line: Line, limit: float, colour: str, label: str, *, marker: str = ""
) -> list[tuple[float, float, float]]:
    """Draw a line with its band, and return (setting, KL, reward) of its points up to the KL `limit`."""
    setting, kl, reward, low, high = (np.array(c) for c in (line.setting, line.kl, line.reward, line.low, line.high))
    if not kl.size:
        return []
    order = np.argsort(kl, kind="stable")
    setting, kl, reward, low, high = (c[order] for c in (setting, kl, reward, low, high))
    axes.fill_between(kl, low, high, color=colour, alpha=0.16, linewidth=0)
    axes.plot(kl, reward, marker=marker, markersize=4, color=colour, label=label)
    return [(float(s), float(k), float(r)) for s, k, r in zip(setting, kl, reward, strict=True) if 0 < k < limit]


def _cross(axes: Axes, kl: Interval, reward: Interval) -> None:
    """Draw the trained policy with the intervals of its KL and its reward."""
    style: dict[str, Any] = {"color": THIRD, "linewidth": 2, "zorder": 5}
    axes.plot([kl.low, kl.high], [reward.estimate] * 2, **style)
    axes.plot([kl.estimate] * 2, [reward.low, reward.high], **style)
    axes.plot([kl.estimate], [reward.estimate], "o", color=THIRD, markersize=8, label="trained policy", zorder=6)


def comparison_figure(panels: Sequence[tuple[str, Sequence[Whisker], float | None, bool]]) -> Markup:
    """Draw runs side by side: one panel per number, one row per run.

    Args:
        panels: Title, rows, position of a dashed line, and whether the values are shares.
    """
    labels = [row.label for row in panels[0][1]]
    with styled():
        made = figure(FULL, 0.75 + 0.34 * len(labels))
        grid = made.subplots(1, len(panels), squeeze=False)[0]
        for i, (axes, (title, rows, reference, percent)) in enumerate(zip(grid, panels, strict=True)):
            whiskers(axes, rows, reference=reference, percent=percent)
            axes.xaxis.set_major_locator(MaxNLocator(4, steps=STEPS))
            axes.set_title(title)
            if i:
                axes.set_yticks(range(len(labels)), [""] * len(labels))
            for y in range(len(labels)):
                axes.axhline(y, color=GRID, linewidth=0.6, zorder=0.4)
        return inline(made, "comparison", "Runs compared: " + ", ".join(title for title, *_ in panels))


def over_kl_figure(marks: Sequence[tuple[str, Interval, Interval]], title: str, *, percent: bool) -> Markup:
    """Draw a number over the KL, one mark per point of a comparison: what each bought, and at what distance.

    Args:
        marks: Name, KL in nats per response, and the number.
        title: Meaning of the number.
        percent: Show shares as percentages.
    """
    scale = 100 if percent else 1
    with styled():
        made = figure(FULL, 3.6)
        axes = made.subplots()
        for name, kl, value in marks:
            low, mid, high = (scale * x for x in (value.low, value.estimate, value.high))
            axes.plot([kl.low, kl.high], [mid, mid], color=FIRST, linewidth=1.2, alpha=0.6)
            axes.plot([kl.estimate] * 2, [low, high], color=FIRST, linewidth=1.2, alpha=0.6)
            axes.plot([kl.estimate], [mid], "o", color=FIRST, markersize=6)
            short = name if len(name) <= 32 else f"{name[:31]}…"
            axes.annotate(short, (kl.estimate, mid), (6, 5), textcoords="offset points", color=MUTED, fontsize=8)
        axes.set_xlabel("KL from the untrained policy, nats per response")
        axes.set_ylabel(title)
        axes.margins(x=0.14, y=0.12)
        if percent:
            axes.yaxis.set_major_formatter(PercentFormatter(decimals=0))
        return inline(made, "over-kl", f"{title} over KL")
