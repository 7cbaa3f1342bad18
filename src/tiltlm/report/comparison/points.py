"""The points of a comparison: runs that differ only in their seed are repetitions of one point, not rivals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tiltlm.diagnostics import Interval, bootstrap_mean, mean_of_repetitions
from tiltlm.report.run_report import RunReport

SEED = "training.seed"
SHARES = frozenset({"accuracy", "win_rate"})
"""Numbers between 0 and 1. Student's interval may reach beyond, because it knows no bounds."""


@dataclass(frozen=True)
class ComparedRun:
    """One run of a comparison."""

    name: str
    """Short name, different from those of the other runs, such as `objective.beta=0.2`."""
    knobs: Mapping[str, Any]
    """The settings that were varied, with the values of this run."""
    report: RunReport | None
    """None if the run failed."""
    link: str = ""
    """Path of the run's page, relative to the folder of the comparison."""
    error: str = ""
    """The error, if the run failed."""

    @property
    def numbers(self) -> dict[str, Interval]:
        """The numbers of the run, with intervals over prompts; none if it failed."""
        return {} if self.report is None else numbers(self.report)


@dataclass(frozen=True)
class Point:
    """Runs with the same settings apart from the seed of training."""

    name: str
    """The name of its run; of several runs, the settings that were varied."""
    knobs: Mapping[str, Any]
    """The settings that were varied, without the seed."""
    runs: tuple[ComparedRun, ...]
    """One per seed."""

    @property
    def finished(self) -> tuple[ComparedRun, ...]:
        """The runs that did not fail."""
        return tuple(run for run in self.runs if run.report is not None)

    @property
    def numbers(self) -> dict[str, Interval]:
        """The numbers that all finished runs have: of one run with intervals over prompts, of several over seeds."""
        found = [run.numbers for run in self.finished]
        if len(found) <= 1:
            return found[0] if found else {}
        shared = [key for key in found[0] if all(key in of_run for of_run in found)]
        over_seeds = {key: mean_of_repetitions([of_run[key].estimate for of_run in found]) for key in shared}
        return {key: _within(0, 1, value) if key in SHARES else value for key, value in over_seeds.items()}

    @property
    def accuracy_by_prompt(self) -> dict[str, float]:
        """Held-out ranking accuracy of each prompt, the mean over seeds; empty if a run did not measure it."""
        measured = [run.report.held_out for run in self.finished if run.report is not None]
        tables = [{} if held_out is None else held_out.accuracy_by_prompt for held_out in measured]
        if not tables or any(table.keys() != tables[0].keys() for table in tables):
            return {}
        return {prompt: sum(table[prompt] for table in tables) / len(tables) for prompt in tables[0]}


def points_of(runs: Sequence[ComparedRun]) -> list[Point]:
    """Return the runs grouped by all varied settings except the seed, in the order of the runs."""
    groups: dict[str, list[ComparedRun]] = {}
    for run in runs:
        settings = repr([(key, value) for key, value in run.knobs.items() if key != SEED])
        groups.setdefault(settings if SEED in run.knobs else run.name, []).append(run)
    return [_point(group) for group in groups.values()]


def table_of(runs: Sequence[ComparedRun]) -> list[dict[str, Any]]:
    """Return one row per point: its varied settings, its seeds, and each number with the ends of its interval."""
    return [
        {
            **point.knobs,
            "num_seeds": len(point.finished),
            "num_failed": len(point.runs) - len(point.finished),
            **{
                name: value
                for key, interval in point.numbers.items()
                for name, value in (
                    (key, interval.estimate),
                    (f"{key}_low", interval.low),
                    (f"{key}_high", interval.high),
                )
            },
        }
        for point in points_of(runs)
    ]


def _within(low: float, high: float, value: Interval) -> Interval:
    return replace(value, low=max(low, value.low), high=min(high, value.high))


def _point(runs: Sequence[ComparedRun]) -> Point:
    knobs = {key: value for key, value in runs[0].knobs.items() if key != SEED}
    settings = ", ".join(f"{key.split('.')[-1]}={value}" for key, value in knobs.items())
    return Point(runs[0].name if len(runs) == 1 else settings or f"{len(runs)} seeds", knobs, tuple(runs))


def accuracy_difference(point: Point, other: Point) -> Interval | None:
    """Return the held-out ranking accuracy of `point` minus that of `other`, paired by prompt.

    Variation between prompts cancels, so this interval is narrower than those of the two accuracies suggest. None if
    the two were not measured on the same prompts.
    """
    own, others = point.accuracy_by_prompt, other.accuracy_by_prompt
    if not own or own.keys() != others.keys():
        return None
    return bootstrap_mean([own[prompt] - others[prompt] for prompt in sorted(own)])


def numbers(report: RunReport) -> dict[str, Interval]:
    """Return the numbers of a run that a comparison shows, by the keys of `comparison.MEASURES`."""
    found: dict[str, Interval] = {}
    if report.gold is not None:
        attainment = report.gold.attainment
        found |= {"gold_reward": attainment.policy, "share_attained": attainment.share, "kl": attainment.kl}
        found["win_rate"] = report.gold.win_rate
    if report.held_out is not None:
        if report.held_out.nll is not None:
            found["nll"] = report.held_out.nll.after
        if (contrast := report.held_out.contrast) is not None:
            found |= {"accuracy": contrast.accuracy.after, "margin": contrast.margin.after}
            if contrast.label_loss is not None:
                found["label_loss"] = contrast.label_loss.after
            if contrast.better is not None:
                found["better_shift"] = contrast.better.difference
    if report.samples is not None:
        found["length"] = report.samples.after.length
        if report.samples.after.kl is not None:
            found.setdefault("kl", report.samples.after.kl)
    return found
