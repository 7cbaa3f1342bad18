"""Strength of three and more systems on one scale, from their comparisons: the model of Bradley and Terry.

P(i better than j) = σ(θᵢ − θⱼ). A tie counts as half a win of each. Strengths are in log-odds; only their differences
mean something, so their mean is 0, or one system is the anchor at 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tiltlm.core.errors import ConfigError
from tiltlm.diagnostics.comparing.logistic import fit_logistic
from tiltlm.diagnostics.comparing.win_rate import symmetric_interval
from tiltlm.estimates.intervals import Interval

Floats = NDArray[np.float64]

RIDGE = 1e-2
"""Penalty on strengths, in units of prompts: it only keeps fits finite where a system won or lost everything."""
LENGTH_RIDGE = 1e-1
RESAMPLES = 1_000
_CHUNK = 2_000_000


@dataclass(frozen=True)
class Strengths:
    """Strengths of systems, in the order of their names as given."""

    names: tuple[str, ...]
    strengths: tuple[Interval, ...]
    """Log-odds."""
    ranks: tuple[tuple[int, int], ...]
    """Best and worst rank of each system in 95 % of the bootstrap draws; 1 is the strongest."""
    anchor: str | None
    """The system at 0; None: the mean is 0."""
    length_coefficient: Interval | None
    """Change of the log-odds per unit of tanh(Δ / sd); None if length is not controlled."""
    without_limit: tuple[str, ...]
    """Systems whose strength the data do not bound, because one group won or lost every comparison with the rest."""


def bradley_terry(
    names: Sequence[str],
    first: ArrayLike,
    second: ArrayLike,
    values: ArrayLike,
    prompts: ArrayLike,
    *,
    gaps: ArrayLike | None = None,
    anchor: str | None = None,
    level: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Strengths:
    """Fit strengths by maximum likelihood with a weak penalty, intervals by bootstrap over prompts.

    Source: Bradley and Terry 1952, Biometrika 39:324.

    Args:
        names: Names of the systems.
        first: [R] number of the first system of each comparison.
        second: [R] number of the second one.
        values: [R] P(first better), ties ½; at most one row for a pair of systems at a prompt, the mean of its
            judgements.
        prompts: [R] the prompt of each comparison.
        gaps: [R] difference in length, first − second. None: length is not controlled.
        anchor: The system whose strength is 0. None: the mean is 0.
        level: Share of repetitions in which the intervals hold the truth.
        seed: Seed of the bootstrap.
        resamples: Bootstrap draws.

    Raises:
        ConfigError: there are no comparisons, comparisons do not connect all systems, or the anchor is unknown.
    """
    i, j, advantage, delta = _oriented(first, second, values, gaps)
    check_connected(names, i, j)
    if anchor is not None and anchor not in names:
        raise ConfigError(f"anchor {anchor!r} is none of {', '.join(names)}", code="unknown_name", key="anchor")
    design, ridge = _design(len(names), i, j, delta)
    kept, index = np.unique(np.asarray(prompts), return_inverse=True)
    n = len(kept)
    zero = None if anchor is None else list(names).index(anchor)
    point = fit_logistic(design, advantage, np.ones((1, len(i))), ridge)
    draws = _bootstrap(design, advantage, index, ridge, point[0].copy(), seed, resamples)
    for fitted in (point, draws):
        own = fitted[:, : len(names)]
        own -= own.mean(1, keepdims=True) if zero is None else own[:, [zero]].copy()
    intervals = [symmetric_interval(float(point[0, k]), draws[:, k], n, level) for k in range(design.shape[1])]
    return Strengths(
        tuple(names),
        tuple(intervals[: len(names)]),
        _ranks(draws[:, : len(names)], level),
        anchor,
        None if gaps is None else intervals[-1],
        without_limit(names, i, j, advantage),
    )


def _oriented(
    first: ArrayLike, second: ArrayLike, values: ArrayLike, gaps: ArrayLike | None
) -> tuple[NDArray[np.intp], NDArray[np.intp], Floats, Floats | None]:
    """Return the comparisons with the lower-numbered system first: numbers, y − ½ and differences in length."""
    i, j = np.asarray(first, dtype=np.intp), np.asarray(second, dtype=np.intp)
    sign = np.where(i <= j, 1.0, -1.0)
    advantage = sign * (np.asarray(values, dtype=np.float64) - 0.5)
    delta = None if gaps is None else sign * np.asarray(gaps, dtype=np.float64)
    return np.minimum(i, j), np.maximum(i, j), advantage, delta


def _design(num: int, i: NDArray[np.intp], j: NDArray[np.intp], delta: Floats | None) -> tuple[Floats, Floats]:
    """Return [R, K] the design, +1 for the first system and −1 for the second one, and [K] the penalties."""
    rows = np.arange(len(i))
    design, ridge = np.zeros((len(i), num + (delta is not None))), np.full(num + (delta is not None), RIDGE)
    design[rows, i] += 1
    design[rows, j] -= 1
    if delta is not None:
        sd = float(np.sqrt(np.mean(delta**2)))  # about 0, since the sign depends on which system is called the first
        design[:, -1] = np.tanh(delta / sd) if sd > 0 else 0.0
        ridge[-1] = LENGTH_RIDGE
    return design, ridge


def _bootstrap(
    design: Floats,
    advantage: Floats,
    index: NDArray[np.intp],
    ridge: Floats,
    start: Floats,
    seed: int,
    resamples: int,
) -> Floats:
    """Return [D, K] the coefficients of each draw of whole prompts.

    Rows with one design, such as all comparisons of two systems, are added up first.
    """
    n = int(index.max()) + 1
    cells, cell = np.unique(design, axis=0, return_inverse=True)
    are_few = len(cells) <= len(ridge) ** 2
    totals = np.zeros((2, n, len(cells) if are_few else 0))
    if are_few:
        np.add.at(totals[0], (index, cell.ravel()), 1.0)
        np.add.at(totals[1], (index, cell.ravel()), advantage)
    rng = np.random.default_rng(seed)
    size, found = max(1, _CHUNK // len(index)), []
    for begin in range(0, resamples, size):
        counts = rng.multinomial(n, np.full(n, 1 / n), size=min(size, resamples - begin)).astype(np.float64)
        if are_few:
            weight = counts @ totals[0]
            found.append(fit_logistic(cells, counts @ totals[1] / np.maximum(weight, 1e-300), weight, ridge, start))
        else:
            found.append(fit_logistic(design, advantage, counts[:, index], ridge, start))
    return np.concatenate(found)


def _ranks(draws: Floats, level: float) -> tuple[tuple[int, int], ...]:
    """Return the range of each system's rank over the draws."""
    places = (-draws).argsort(1, kind="stable").argsort(1, kind="stable") + 1
    ends = np.quantile(places, [(1 - level) / 2, (1 + level) / 2], axis=0, method="nearest")
    return tuple((int(low), int(high)) for low, high in ends.T)


def check_connected(names: Sequence[str], first: NDArray[np.intp], second: NDArray[np.intp]) -> None:
    """Require that comparisons connect all systems; otherwise strengths of two groups have no common scale.

    Raises:
        ConfigError: there are no comparisons, or they leave systems apart.
    """
    if not len(first):
        raise ConfigError("there are no judgements to compare systems by", code="empty", key="values")
    labels = _components(len(names), first, second, "weak")
    if labels.max() > 0:
        groups = [[n for n, own in zip(names, labels, strict=True) if own == g] for g in range(labels.max() + 1)]
        raise ConfigError(
            "no comparison connects " + " with ".join(", ".join(group) for group in groups) + "; compare a system of "
            "one group with one of the other",
            code="not_connected",
            key="systems",
        )


def without_limit(
    names: Sequence[str], first: NDArray[np.intp], second: NDArray[np.intp], advantage: Floats
) -> tuple[str, ...]:
    """Return the systems outside the largest group in which each system lost something, directly or by a chain.

    Source: the condition of Ford 1957, Am. Math. Mon. 64:28, for a finite maximum of the likelihood.
    """
    won, lost = advantage > -0.5, advantage < 0.5
    winners = np.concatenate([first[won], second[lost]])
    losers = np.concatenate([second[won], first[lost]])
    labels = _components(len(names), winners, losers, "strong")
    largest = np.bincount(labels).argmax()
    if labels.max() == 0:
        return ()
    alone = np.bincount(labels).max() == 1
    return tuple(name for name, label in zip(names, labels, strict=True) if alone or label != largest)


def _components(num: int, start: NDArray[np.intp], end: NDArray[np.intp], kind: str) -> NDArray[np.int32]:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(start)), (start, end)), shape=(num, num))
    labels: NDArray[np.int32] = connected_components(graph, directed=True, connection=kind)[1]
    return labels
