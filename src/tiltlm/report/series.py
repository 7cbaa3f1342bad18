"""Curves of a run from the records of metrics.jsonl, averaged down to few points so that a page stays small."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

MAX_POINTS = 240
"""Most points of one curve."""

SHOWN = (
    *("loss", "nll", "rewards/accuracies", "rewards/margins", "rewards/chosen", "rewards/rejected"),
    *("logps_per_token/chosen", "logps_per_token/rejected", "kl"),
)
"""Metrics that a report plots if they were measured."""


@dataclass(frozen=True)
class Series:
    """One metric over training."""

    name: str
    """Name as in metrics.jsonl, without `eval_`."""
    part: Literal["train", "held_out"]
    """`train`: the batches of each step. `held_out`: all held-out rows, at some of the steps."""
    steps: tuple[float, ...]
    values: tuple[float, ...]


def series_of(records: Iterable[Mapping[str, Any]]) -> tuple[Series, ...]:
    """Return the curves of a run. Neighbouring points are averaged; values that are not finite are left out."""
    points: dict[tuple[str, Literal["train", "held_out"]], list[tuple[float, float]]] = {}
    for record in records:
        for key, value in record.items():
            name = key.removeprefix("eval_")
            if name in SHOWN and math.isfinite(float(value)):
                part: Literal["train", "held_out"] = "train" if name == key else "held_out"
                points.setdefault((name, part), []).append((float(record["step"]), float(value)))
    order = sorted(points, key=lambda key: (SHOWN.index(key[0]), key[1] == "held_out"))
    return tuple(_thinned(*key, points[key]) for key in order)


def _thinned(name: str, part: Literal["train", "held_out"], points: list[tuple[float, float]]) -> Series:
    size = math.ceil(len(points) / MAX_POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    steps, values = zip(*((_mean([x for x, _ in g]), _mean([y for _, y in g])) for g in groups), strict=True)
    return Series(name, part, steps, values)


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)
