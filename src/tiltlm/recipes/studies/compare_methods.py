"""The recipe that compares methods: equal trials, chosen on one half of the prompts, reported on the other."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tiltlm.core import ConfigError, RunError
from tiltlm.diagnostics import bootstrap_mean
from tiltlm.evaluation.answers.method_comparison import (
    MethodComparison,
    MethodRun,
    choose_trials,
)
from tiltlm.evaluation.answers.method_comparison import compare_methods as compare_runs
from tiltlm.evaluation.answers.plane import PolicySamples, knob_text
from tiltlm.evaluation.answers.systems import prompt_key
from tiltlm.judging import Comparer, Scorer
from tiltlm.models import load_policy
from tiltlm.recipes.answers.sample import STOCK
from tiltlm.recipes.answers.systems import open_judge, refuse_own_family
from tiltlm.recipes.progress import ProgressCallback, silent
from tiltlm.recipes.run_settings import RunSettings
from tiltlm.recipes.studies.sweep import SweepPoint, run_name
from tiltlm.recipes.studies.trained_policies import (
    AnswerPlan,
    FinishedRun,
    PolicyStudy,
    require_one_start,
    train_point,
)
from tiltlm.recipes.study_checks import check_folder
from tiltlm.report import read_run
from tiltlm.sampling.answers import AnswerRow
from tiltlm.training.training_settings import default_learning_rate

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

FACTORS = (1.0, 1 / 3, 3.0)
"""Learning rates that are tried, as multiples of the configured one, or of that derived from the model's size."""
ACCURACY = "held-out ranking accuracy"


@dataclass(frozen=True)
class MethodSetting:
    """One setting of a method's knobs, checked."""

    method: str
    knobs: Mapping[str, float]
    settings: RunSettings


@dataclass(frozen=True)
class MethodsRequest:
    """What is compared, and where the results go."""

    candidates: Mapping[str, Sequence[MethodSetting]]
    """Method → every setting of its range."""
    trials: int
    """Settings that are tried for each method, with one seed."""
    seeds: int
    """Further runs of the chosen setting, each with a seed of its own. These are compared."""
    learning_rates: tuple[float, ...] | None
    judge: Any
    """Settings of the judge; None: methods are compared by ranking accuracy."""
    plan: AnswerPlan
    max_kl: float | None = None
    markdown: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_folder(self.plan.output, resume=self.plan.resume, overwrite=self.overwrite)
        require_one_start(one.settings for own in self.candidates.values() for one in own)
        for name, least in (("trials", 1), ("seeds", 1)):
            if getattr(self, name) < least:
                raise ConfigError(
                    f"{name} is {getattr(self, name)}; it must be at least 1", code="out_of_range", key=name
                )
        if len(self.candidates) < 2:
            raise ConfigError(
                "one method; a comparison needs at least two: --methods dpo,simpo",
                code="too_few_methods",
                key="methods",
            )
        num_rates = len(self.learning_rates or FACTORS)
        for method, own in self.candidates.items():
            if self.trials > len(own) * num_rates:
                raise ConfigError(
                    f"{method} has {len(own)} settings and {num_rates} learning rates, and {self.trials} trials are "
                    "asked for; every method gets the same number, so lower trials, or give more learning rates",
                    code="too_many_trials",
                    key="trials",
                )
        if self.max_kl is not None and not self.max_kl > 0:
            raise ConfigError(f"max_kl is {self.max_kl}; it must be above 0", code="not_positive", key="max_kl")


@dataclass(frozen=True, repr=False)
class ComparedMethods:
    """A finished comparison, as a terminal and a notebook look at it."""

    path: Path
    """The folder with `methods.html`, `methods.json`, the answers and the runs."""
    comparison: MethodComparison

    def __repr__(self) -> str:
        from tiltlm.report.studies.methods import sentences_of

        names = ", ".join(result.method for result in self.comparison.methods)
        lines = [f"  {sentence}" for sentence in sentences_of(self.comparison)]
        return "\n".join([f"ComparedMethods: {names}", *lines])

    def _repr_html_(self) -> str:
        """Return the page for a notebook."""
        from tiltlm.report.page import in_frame
        from tiltlm.report.studies.methods import render_methods

        return in_frame(render_methods(self.comparison))

    def summary(self) -> str:
        """Return what the command line prints at the end."""
        from tiltlm.report.studies.methods import sentences_of

        return "\n".join([*sentences_of(self.comparison), "", f"report  {self.path / 'methods.html'}"])

    def to_pandas(self) -> pd.DataFrame:
        """Return one row for each method: its setting, and its numbers with the ends of their intervals."""
        import pandas as pd

        from tiltlm.report.studies.methods import rows_of

        return pd.DataFrame(rows_of(self.comparison))


def compare_methods(request: MethodsRequest, *, progress: ProgressCallback = silent) -> ComparedMethods:
    """Try every method's settings, train the best of each with further seeds, compare these, and write the page.

    Raises:
        TiltError: something is wrong; what can be seen before a model is loaded is refused then.
    """
    study = Runs(request, progress)
    trials = [study.trial(method, k) for method in request.candidates for k in range(request.trials)]
    tried = study.measured(study.train(trials))
    chosen = choose_trials(tried, max_kl=request.max_kl, seed=request.plan.seed)
    repeated = []
    for method in request.candidates:
        best, results = chosen.get(method, (None, []))
        if best is None:
            reason = f"all its trials have a KL above {request.max_kl:g} nats" if results else "no trial finished"
            study.without.setdefault(method, reason)  # that nothing was measured is known before
            continue
        trial = next(trial for trial in trials if trial.label == best.name)
        first = request.plan.base.training.seed + 1
        repeated += [replace(trial, seed=first + k) for k in range(request.seeds)]
    final: dict[str, list[MethodRun]] = {}
    for run in study.measured(study.train(repeated, len(trials))):
        final.setdefault(run.method, []).append(run)
    if not final:
        raise RunError(f"no method has a result: {study.failed or study.without}", code="no_runs", key="methods")
    comparison = compare_runs(
        final,
        {method: chosen[method][1] for method in final},
        measure=study.measure,
        is_share=not isinstance(study.judge, Scorer),
        max_kl=request.max_kl,
        seed=request.plan.seed,
        failed=study.failed,
        without=study.without,
    )
    from tiltlm.report.studies.methods import write_methods

    write_methods(request.plan.output, comparison, markdown=request.markdown)
    return ComparedMethods(request.plan.output, comparison)


@dataclass(frozen=True)
class Trial:
    """One run that is trained."""

    setting: MethodSetting
    learning_rate: float
    seed: int

    @property
    def values(self) -> dict[str, Any]:
        """What makes its name."""
        return {**self.shown, "seed": self.seed}

    @property
    def shown(self) -> dict[str, Any]:
        """The settings that were chosen for it."""
        return {**self.setting.knobs, "learning_rate": float(f"{self.learning_rate:.3g}")}

    @property
    def label(self) -> str:
        """Its name in tables."""
        return f"{self.setting.method} {knob_text(self.values)}"

    @property
    def point(self) -> SweepPoint:
        """Its settings, as a sweep has them."""
        settings = self.setting.settings
        training = replace(settings.training, learning_rate=self.learning_rate, seed=self.seed)
        return SweepPoint({"method": self.setting.method, **self.values}, replace(settings, training=training))


class Runs:
    """Trains and measures the runs of one comparison."""

    def __init__(self, request: MethodsRequest, progress: ProgressCallback) -> None:
        """Open the judge, draw the answers before training, and find the learning rates."""
        self.request, self.progress = request, progress
        self.failed: dict[str, str] = {}
        self.without: dict[str, str] = {}
        self.study: PolicyStudy | None = None
        self.judge: Scorer | Comparer | None = None
        self.reference: list[AnswerRow] = []
        self.measure = ACCURACY
        self.trial_of: dict[str, Trial] = {}
        if request.judge is not None:
            self.judge = open_judge(request.judge)
            self.study = PolicyStudy(request.plan, self.judge, progress)
            self.reference = self.study.answers_before_training()
            refuse_own_family(self.judge, request.judge, self.reference)
            scores = isinstance(self.judge, Scorer)
            self.measure = f"{self.judge.name} score" if scores else "win rate against before training"
        self.rates = request.learning_rates or [factor * self.usual_rate() for factor in FACTORS]

    def usual_rate(self) -> float:
        """Return the configured learning rate, or that derived from the size of the model."""
        base = self.request.plan.base
        if base.training.learning_rate is not None:
            return base.training.learning_rate
        policy = (
            self.study.before_training() if self.study else load_policy(replace(base.model, lora=None), choice=STOCK)
        )
        num_parameters = sum(parameter.numel() for parameter in policy.module.parameters())
        return default_learning_rate(num_parameters, lora=(base.model.lora or base.model.adapter) is not None)

    def trial(self, method: str, number: int) -> Trial:
        """Return a trial of a method: settings in random order, with learning rates that rotate among them."""
        own = self.request.candidates[method]
        order = np.random.default_rng([self.request.plan.seed, len(own)]).permutation(len(own))
        place, turn = number % len(own), number // len(own)
        rate = self.rates[(place + turn) % len(self.rates)]
        return Trial(own[int(order[place])], rate, self.request.plan.base.training.seed)

    def train(self, trials: Sequence[Trial], first: int = 0) -> list[FinishedRun]:
        """Train runs, and return those that finished."""
        found = []
        if self.study is not None:
            self.study.release()
        for k, trial in enumerate(trials):
            name = run_name(first + k, trial.point.values)
            log.info("%s: run %d", name, first + k + 1)
            run, error = train_point(
                self.request.plan.output, name, trial.point, self.request.plan.resume, self.progress
            )
            if run is None:
                self.failed[trial.label] = error
                continue
            self.trial_of[trial.label] = trial
            found.append(replace(run, name=trial.label))
        return found

    def measured(self, runs: Sequence[FinishedRun]) -> list[MethodRun]:
        """Return the runs with the number that methods are compared by, and their KL."""
        if not runs:
            return []
        if self.study is None:
            return [found for run in runs if (found := self._by_report(run)) is not None]
        judged = self.study.judged(self.reference, [self.study.answers_of(run) for run in runs])
        prompts = [prompt_key(row.prompt) for row in judged.reference]
        return [self._by_judge(samples, prompts) for samples in judged.samples]

    def _by_report(self, run: FinishedRun) -> MethodRun | None:
        """Read accuracy and KL from the report of a run."""
        trial, report = self.trial_of[run.name], read_run(run.path)
        if report.held_out is None or not report.held_out.accuracy_by_prompt:
            self.without[trial.setting.method] = "its runs measured no ranking accuracy; name a judge (--judge)"
            return None
        kl = None if report.samples is None else report.samples.after.kl
        value = report.held_out.accuracy_by_prompt
        return MethodRun(run.name, trial.setting.method, trial.shown, trial.seed, value, kl)

    def _by_judge(self, samples: PolicySamples, prompts: Sequence[str]) -> MethodRun:
        trial = self.trial_of[samples.name]
        numbers = samples.wins if samples.scores is None else samples.scores.mean(1)
        value = dict(zip(prompts, numbers.tolist(), strict=True))
        kl = bootstrap_mean(samples.kl_by_prompt, seed=self.request.plan.seed)
        return MethodRun(samples.name, trial.setting.method, trial.shown, trial.seed, value, kl)
