"""Find the value of a knob that spends a given KL: train, measure, and choose the next value between the known ones."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiltlm.core import ConfigError
from tiltlm.diagnostics import bootstrap_mean
from tiltlm.evaluation.answers.knob_trials import KnobSearch, Trial, gap

MAX_RUNS = 6
"""Runs that a search trains beyond those of the grid."""
FURTHEST = 10.0
"""Factor by which a value goes beyond the known ones in one step."""


@dataclass(frozen=True)
class Target:
    """A KL that a knob shall spend."""

    knob: str
    kl: float
    """Nats per response."""
    at: Callable[[float], Any]
    """Returns the settings of a run at a value of the knob."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.kl) and self.kl > 0):
            raise ConfigError(f"kl is {self.kl}; it must be a number of nats above 0", code="not_positive", key="kl")


def search_knob(
    target: Target,
    runs: Sequence[Any],
    kl_of: Callable[[Any], NDArray[np.float64]],
    train_at: Callable[[float, int], Any],
) -> tuple[KnobSearch, list[Any]]:
    """Train at further values of a knob until a run spends the wanted KL.

    log KL is taken to be linear in the log of the knob between two neighbouring values.

    Args:
        target: The knob and the wanted KL.
        runs: Runs of the grid; each has `knobs`. Repetitions at one value are averaged.
        kl_of: Returns the KL of a run at each prompt.
        train_at: Trains a run at a value; called with the value and the number of runs that the search trained before.

    Returns:
        The search, and the runs that it trained.

    Raises:
        ConfigError: a value of the knob is not a number above 0.
    """
    known: dict[float, list[NDArray[np.float64]]] = {}
    for run in runs:
        known.setdefault(_number(target.knob, run.knobs.get(target.knob)), []).append(kl_of(run))
    trained: list[Any] = []
    while True:
        trials = [Trial(value, bootstrap_mean(np.stack(kls).mean(0))) for value, kls in sorted(known.items())]
        found = KnobSearch(target.knob, target.kl, tuple(trials), len(trained))
        if found.is_found or len(trained) == MAX_RUNS:
            return found, trained
        value = next_value(trials, target.kl)
        if value in known:  # the interval between two values is closed
            return found, trained
        trained.append(train_at(value, len(trained)))
        known[value] = [kl_of(trained[-1])]


def next_value(trials: Sequence[Trial], wanted: float) -> float:
    """Return the value to try next, rounded to three digits: between two neighbours, or beyond the known values.

    Args:
        trials: What is known, in ascending order of the value.
        wanted: The wanted KL.
    """
    gaps = [gap(trial, wanted) for trial in trials]
    logs = [math.log(trial.value) for trial in trials]
    crossings = [k for k in range(len(trials) - 1) if gaps[k] * gaps[k + 1] < 0]
    if crossings:
        k = min(crossings, key=lambda k: abs(gaps[k]) + abs(gaps[k + 1]))
        share = gaps[k] / (gaps[k] - gaps[k + 1])
        share = min(max(share, 0.1), 0.9)  # else one end may stay for many steps
        return _rounded(math.exp(logs[k] + share * (logs[k + 1] - logs[k])))
    k = min(range(len(trials)), key=lambda k: abs(gaps[k]))
    slope = _slope(gaps, logs, k)
    step = -gaps[k] / slope
    limit = math.log(FURTHEST)
    return _rounded(math.exp(logs[k] + min(max(step, -limit), limit)))


def _slope(gaps: Sequence[float], logs: Sequence[float], k: int) -> float:
    """Return d log KL / d log knob near the k-th value: −1 with one value, or where the measured one has no sign."""
    if len(gaps) == 1:
        return -1.0
    other = k - 1 if k else 1
    slope = (gaps[k] - gaps[other]) / (logs[k] - logs[other])
    overall = (gaps[-1] - gaps[0]) / (logs[-1] - logs[0])
    sign = math.copysign(1.0, overall) if overall else -1.0
    return sign * max(abs(slope), 0.3) if slope * sign > 0 else sign


def _number(knob: str, value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
        return float(value)
    raise ConfigError(
        f"{knob} is {value!r}; the search for a KL needs a knob with numbers above 0, such as objective.beta=0.03,1",
        code="wrong_type",
        key=knob,
    )


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
