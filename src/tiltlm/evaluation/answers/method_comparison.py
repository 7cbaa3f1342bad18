"""Methods compared fairly: the same number of trials each, chosen on one half of the prompts, reported on the other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiltlm.core import ConfigError
from tiltlm.data.cache.fingerprints import is_held_out
from tiltlm.diagnostics import Interval, bootstrap_mean, mean_of_repetitions
from tiltlm.diagnostics.repetitions import crossed_mean
from tiltlm.estimates.intervals import holm
from tiltlm.evaluation.answers.plane import not_negative

Floats = NDArray[np.float64]

SIGNIFICANT = 0.05
"""Two methods are told apart if the p-value of their difference, adjusted by Holm, is below this."""


@dataclass(frozen=True, eq=False)
class MethodRun:
    """One finished run of a method."""

    name: str
    method: str
    settings: Mapping[str, Any]
    """The knobs and the learning rate that were tried."""
    seed: int
    value: Mapping[str, float]
    """Prompt → the number that methods are compared by: reward, win rate, or ranking accuracy."""
    kl: Interval | None
    """KL to the policy before training, nats per response; None without samples."""


@dataclass(frozen=True)
class TrialResult:
    """A setting that was tried with one seed."""

    name: str
    settings: Mapping[str, Any]
    chooses: Interval
    """Its value on the prompts that choose."""
    reports: Interval
    """Its value on the others, for the picture: choosing does not read it."""
    kl: Interval | None
    is_chosen: bool
    is_too_far: bool
    """True if its KL is above the limit, so that it cannot be chosen."""


@dataclass(frozen=True)
class MethodResult:
    """One method at its chosen setting."""

    method: str
    settings: Mapping[str, Any]
    trials: tuple[TrialResult, ...]
    num_seeds: int
    value: Interval
    """On the prompts that did not choose, over seeds and prompts."""
    kl: Interval | None
    """Over seeds (Student's); over prompts with one seed."""


@dataclass(frozen=True)
class MethodPair:
    """The difference of two methods on the prompts that did not choose."""

    first: str
    second: str
    difference: Interval
    """First − second, paired by prompt, over seeds and prompts."""
    p_value: float
    adjusted_p: float
    """By Holm for the number of pairs."""

    @property
    def is_told_apart(self) -> bool:
        """True if the difference is not explained by chance."""
        return self.adjusted_p < SIGNIFICANT


@dataclass(frozen=True)
class MethodComparison:
    """All methods."""

    measure: str
    """What `value` is, in words."""
    is_share: bool
    """True if values are shares between 0 and 1."""
    methods: tuple[MethodResult, ...]
    """The best first."""
    pairs: tuple[MethodPair, ...]
    num_choosing: int
    num_reporting: int
    """Prompts of the two halves."""
    max_kl: float | None
    failed: Mapping[str, str] = field(default_factory=dict)
    """Run → its error."""
    without: Mapping[str, str] = field(default_factory=dict)
    """Method → why it has no result."""

    @property
    def not_told_apart(self) -> tuple[str, ...]:
        """Methods that cannot be told from the best one."""
        best = self.methods[0].method
        return tuple(
            pair.second if pair.first == best else pair.first
            for pair in self.pairs
            if best in (pair.first, pair.second) and not pair.is_told_apart
        )


def split_prompts(prompts: Sequence[str], seed: int = 0) -> tuple[list[str], list[str]]:
    """Return the prompts that choose, and those that report. A prompt's text and the seed decide, nothing else."""
    chooses = [prompt for prompt in prompts if is_held_out(f"half/{prompt}", 0.5, seed)]
    return chooses, [prompt for prompt in prompts if prompt not in set(chooses)]


def choose_trials(
    runs: Sequence[MethodRun], *, max_kl: float | None = None, seed: int = 0
) -> dict[str, tuple[MethodRun | None, list[TrialResult]]]:
    """Return for each method the trial with the highest value on the choosing half, and all its trials.

    Args:
        runs: One run for each trial.
        max_kl: Only trials with at most this KL can be chosen. None: all.
        seed: Seed of the halves.

    Raises:
        ConfigError: a half has fewer than two prompts, or a KL limit is given and KL was not measured.
    """
    found: dict[str, tuple[MethodRun | None, list[TrialResult]]] = {}
    for method in dict.fromkeys(run.method for run in runs):
        own = [run for run in runs if run.method == method]
        results = [_trial(run, max_kl, seed) for run in own]
        allowed = [k for k, result in enumerate(results) if not result.is_too_far]
        best = max(allowed, key=lambda k: results[k].chooses.estimate) if allowed else None
        trials = [replace(result, is_chosen=k == best) for k, result in enumerate(results)]
        found[method] = (None if best is None else own[best], trials)
    return found


def _trial(run: MethodRun, max_kl: float | None, seed: int) -> TrialResult:
    chooses, reports = split_prompts(list(run.value), seed)
    if min(len(chooses), len(reports)) < 2:
        raise ConfigError(
            f"{len(run.value)} held-out prompts fall into halves of {len(chooses)} and {len(reports)}; hold out more "
            "(data.eval_fraction), or raise --limit",
            code="too_few_prompts",
            key="data.eval_fraction",
        )
    if max_kl is not None and run.kl is None:
        raise ConfigError(
            "max_kl needs a measured KL, and no answers are sampled; raise evaluation.num_prompts",
            code="not_measured",
            key="max_kl",
        )
    return TrialResult(
        run.name,
        run.settings,
        bootstrap_mean([run.value[prompt] for prompt in chooses]),
        bootstrap_mean([run.value[prompt] for prompt in reports]),
        run.kl,
        is_chosen=False,
        is_too_far=run.kl is not None and max_kl is not None and run.kl.estimate > max_kl,
    )


def compare_methods(
    runs: Mapping[str, Sequence[MethodRun]],
    trials: Mapping[str, Sequence[TrialResult]],
    *,
    measure: str,
    is_share: bool,
    max_kl: float | None = None,
    seed: int = 0,
    failed: Mapping[str, str] | None = None,
    without: Mapping[str, str] | None = None,
) -> MethodComparison:
    """Compare methods at their chosen settings on the reporting half.

    Args:
        runs: Method → its runs at the chosen setting, one for each seed.
        trials: Method → its trials.
        measure: What the values are, in words.
        is_share: Values are shares between 0 and 1.
        max_kl: The limit that trials were chosen under.
        seed: Seed of the halves.
        failed: Run → its error.
        without: Method → why it has no result.
    """
    everyone = [run for own in runs.values() for run in own]
    shared = [prompt for prompt in everyone[0].value if all(prompt in run.value for run in everyone)]
    chooses, reports = split_prompts(shared, seed)
    tables = {method: _table(own, reports) for method, own in runs.items()}
    means = {method: crossed_mean(table)[0] for method, table in tables.items()}
    results = [
        MethodResult(method, own[0].settings, tuple(trials[method]), len(own), means[method], _kl(own))
        for method, own in runs.items()
    ]
    pairs = [(a, b, *_difference(tables[a], tables[b])) for a, b in combinations(runs, 2)]
    adjusted = holm([p for *_, p in pairs]) if pairs else []
    return MethodComparison(
        measure=measure,
        is_share=is_share,
        methods=tuple(sorted(results, key=lambda result: -result.value.estimate)),
        pairs=tuple(MethodPair(a, b, d, p, float(q)) for (a, b, d, p), q in zip(pairs, adjusted, strict=True)),
        num_choosing=len(chooses),
        num_reporting=len(reports),
        max_kl=max_kl,
        failed=failed or {},
        without=without or {},
    )


def _table(runs: Sequence[MethodRun], prompts: Sequence[str]) -> Floats:
    """Return the values of all seeds at these prompts, [S, P]."""
    return np.array([[run.value[prompt] for prompt in prompts] for run in runs])


def _kl(runs: Sequence[MethodRun]) -> Interval | None:
    found = [run.kl for run in runs if run.kl is not None]
    if len(found) < len(runs):
        return None
    return found[0] if len(found) == 1 else not_negative(mean_of_repetitions([kl.estimate for kl in found]))


def _difference(a: Floats, b: Floats) -> tuple[Interval, float]:
    """Return the difference of two methods, paired by prompt, with its p-value. Seeds are paired by their order."""
    size = min(len(a), len(b))
    return crossed_mean(a[:size] - b[:size])
