"""The pictures of the plane of KL and reward: reward over KL, and the win rate over KL."""

from collections.abc import Callable, Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, PercentFormatter

from tiltlm.diagnostics import Interval
from tiltlm.evaluation.answers.loop_curve import LoopCurve
from tiltlm.evaluation.answers.plane import Plane, PolicyPoint
from tiltlm.report.plots import FULL
from tiltlm.report.svg import FIRST, INK, MUTED, SECOND, THIRD, figure, inline, styled

TICKS = (0, 0.01, 0.03, 0.1, 0.3, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
PLACES = (((6, 6), "left"), ((6, -13), "left"), ((-6, 6), "right"))
"""Places of names beside their points: neighbours have unlike ones."""
LABELLED = 12
"""Most points that have their name beside them."""
LOOP_STYLES = [(style, colour) for style in ("o-", "s--", "^:") for colour in (THIRD, INK, SECOND, MUTED)]
MANY_LOOPS = 4
"""Loops above which their intervals are left out of the picture."""


def reward_figure(plane: Plane) -> Markup:
    """Draw the reward over KL: policies, checkpoints, rounds of loops, best-of-n, and the frontier with its band."""
    with styled():
        made = figure(FULL, 4.4)
        axes = made.subplots()
        curve = plane.tilt
        limit = visible_kl(plane)
        if curve is not None:
            shown = np.isfinite(curve.reward)
            axes.fill_between(
                curve.kl[shown], curve.low[shown], curve.high[shown], color=FIRST, alpha=0.16, linewidth=0
            )
            axes.plot(curve.kl[shown], curve.reward[shown], color=FIRST, label="frontier: highest reward at each KL")
        if plane.best_of_n is not None:
            _best_of_n(axes, plane, plane.best_of_n.proxy, 1, limit)
        if plane.base is not None:
            axes.plot([0], [plane.base.estimate], "D", color=INK, markersize=6, label="before training", zorder=4)
        _loops(axes, plane.loops)
        _policies(axes, plane, lambda point: point.reward, 1)
        _finish(axes, limit, f"{plane.judge} score")
        return inline(made, "reward", "Reward over KL: policies, best of n, and the frontier")


def win_rate_figure(plane: Plane) -> Markup:
    """Draw the win rate against the policy before training over KL."""
    with styled():
        made = figure(FULL, 3.8)
        axes = made.subplots()
        limit = visible_kl(plane)
        if plane.best_of_n is not None:
            _best_of_n(axes, plane, plane.best_of_n_win_rates, 100, limit)
        axes.axhline(50, color=MUTED, linewidth=1, linestyle=(0, (3, 3)), zorder=0.5)
        _policies(axes, plane, lambda point: point.win_rate, 100)
        _finish(axes, limit, "win rate against before training")
        axes.yaxis.set_major_formatter(PercentFormatter(decimals=0))
        return inline(made, "win-rate", "Win rate over KL")


def visible_kl(plane: Plane) -> float:
    """Return the largest KL to draw: a little beyond the policies, so that they are not at the edge."""
    points = [*plane.points, *(point for own in plane.checkpoints.values() for point in own)]
    found = [point.kl.estimate for point in points]
    found += [point.kl.high for point in points if np.isfinite(point.kl.high) and point.num_seeds == 1]
    found += [point.kl.estimate for curve in plane.loops for point in curve.points]
    return 1.1 * max([*found, 0.1])


def _best_of_n(axes: Axes, plane: Plane, values: Sequence[Interval], scale: float, limit: float) -> None:
    best = plane.best_of_n
    assert best is not None
    kl = (best.kl_bound if best.kl is None else [interval.estimate for interval in best.kl])[: len(values)]
    low, mid, high = ([scale * getattr(value, end) for value in values] for end in ("low", "estimate", "high"))
    axes.fill_between(kl, low, high, color=SECOND, alpha=0.16, linewidth=0)
    axes.plot(kl, mid, "s-", color=SECOND, markersize=4, label="best of n answers before training")
    last = 0.0
    for n, x, y in zip(best.ns, kl, mid, strict=False):
        if x <= limit and np.sqrt(x) - last > 0.03 * np.sqrt(limit):
            last = float(np.sqrt(x))
            axes.annotate(f"{n}", (x, y), (4, -10), textcoords="offset points", color=MUTED, fontsize=8)


def _policies(axes: Axes, plane: Plane, value: Callable[[PolicyPoint], Interval | None], scale: float) -> None:
    """Draw trained policies with the intervals of both numbers, and their checkpoints as thin lines."""
    for number, own in enumerate(plane.checkpoints.values()):
        marks = [(point.kl.estimate, found.estimate) for point in own if (found := value(point)) is not None]
        x, y = [kl for kl, _ in marks], [scale * found for _, found in marks]
        label = None if number else "checkpoints of a run"
        axes.plot([0, *x], [_start(plane, scale), *y], ".-", color=THIRD, linewidth=0.9, alpha=0.55, label=label)
    for number, point in enumerate(sorted(plane.points, key=lambda point: point.kl.estimate)):
        found = value(point)
        if found is None:
            continue
        low, mid, high = (scale * end for end in (found.low, found.estimate, found.high))
        label = None if number else "trained policies"
        axes.plot([max(point.kl.low, 0), point.kl.high], [mid, mid], color=THIRD, linewidth=1.6, zorder=5)
        axes.plot([point.kl.estimate] * 2, [low, high], color=THIRD, linewidth=1.6, zorder=5)
        axes.plot([point.kl.estimate], [mid], "o", color=THIRD, markersize=6, label=label, zorder=6)
        if len(plane.points) <= LABELLED:
            name = point.name if len(point.name) <= 28 else f"{point.name[:27]}…"
            place, side = PLACES[number % len(PLACES)]
            axes.annotate(
                name, (point.kl.estimate, mid), place, textcoords="offset points", color=INK, fontsize=8, ha=side
            )


def _loops(axes: Axes, loops: Sequence[LoopCurve]) -> None:
    """Draw one line for each loop, with a mark and the band of the reward for each round."""
    for number, curve in enumerate(loops):
        x = [point.kl.estimate for point in curve.points]
        low, mid, high = ([getattr(point.reward, end) for point in curve.points] for end in ("low", "estimate", "high"))
        style, colour = LOOP_STYLES[number % len(LOOP_STYLES)]
        if len(loops) <= MANY_LOOPS:
            axes.vlines(x, low, high, color=colour, alpha=0.35, linewidth=1)
        axes.plot(x, mid, style, color=colour, markersize=3.5, linewidth=1, label=f"{curve.name}, by round", zorder=3)


def _start(plane: Plane, scale: float) -> float:
    """Return the value before training: its reward, or a win rate of one half."""
    return scale * 0.5 if scale != 1 or plane.base is None else plane.base.estimate


def _finish(axes: Axes, limit: float, title: str) -> None:
    kl_axis(axes, limit)
    axes.set_ylabel(title)
    axes.margins(y=0.1)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, fontsize=8)


def kl_axis(axes: Axes, limit: float) -> None:
    """Make the horizontal axis one of KL, from 0 to a limit, by its square root, which spreads the small values."""
    axes.set_xscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0)), np.square))
    axes.xaxis.set_major_locator(FixedLocator(_spread(limit)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.set_xlim(0, limit)
    axes.set_xlabel("KL from the policy before training, nats per response (axis by its square root)")


def _spread(limit: float) -> list[float]:
    """Return the ticks that are far enough apart on the axis."""
    kept: list[float] = []
    for tick in TICKS:
        if tick <= limit and (not kept or np.sqrt(tick) - np.sqrt(kept[-1]) > 0.06 * np.sqrt(limit)):
            kept.append(tick)
    return kept
