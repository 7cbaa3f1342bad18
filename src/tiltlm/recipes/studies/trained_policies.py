"""Trained policies in a study: their training, their answers to the same prompts, and what a judge says of these."""

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiltlm.core import ConfigError, RunError
from tiltlm.data.files.text_files import Row
from tiltlm.evaluation.answers.contests import hold_contests
from tiltlm.evaluation.answers.plane import PolicySamples, knob_text, win_shares
from tiltlm.evaluation.answers.systems import System, align, prompt_key
from tiltlm.judging import Comparer, Scorer
from tiltlm.judging.cache import JudgementCache, cached
from tiltlm.judging.judge import MAX_ERRORS
from tiltlm.models import Policy, load_policy
from tiltlm.recipes.answers.sample import STOCK
from tiltlm.recipes.answers.systems import Drawing, Named, draw_answers, held_out_rows, trained_prompts
from tiltlm.recipes.online.loop_run import LoopRunSettings
from tiltlm.recipes.progress import ProgressCallback
from tiltlm.recipes.run_settings import RunSettings
from tiltlm.recipes.studies.best_of_n import score_rows
from tiltlm.recipes.studies.sweep import SweepPoint, run_point
from tiltlm.report import ComparedRun
from tiltlm.report.comparison.points import SEED
from tiltlm.sampling.answers import AnswerRow
from tiltlm.sampling.engines.engine import EngineAnswer
from tiltlm.sampling.engines.rescoring import with_logps
from tiltlm.training.checkpoints import files as checkpoint
from tiltlm.training.checkpoints.tensors import restore_policy

log = logging.getLogger(__name__)

REFERENCE = "before training"
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FinishedRun:
    """A run that has been trained."""

    name: str
    knobs: Mapping[str, Any]
    """The settings that differ between the runs."""
    settings: RunSettings
    path: Path


def finished(name: str, point: SweepPoint, path: Path) -> FinishedRun:
    """Return a point as a finished run. Its name in tables and pictures is made of its values."""
    label = knob_text(point.values) or name
    knobs = {key: value for key, value in point.values.items() if key != SEED}
    return FinishedRun(label, knobs, point.settings, path)


@dataclass(frozen=True)
class AnswerPlan:
    """Which answers a study draws, and where it keeps them."""

    base: RunSettings
    """The settings that all runs share: model, held-out data, rendering of prompts."""
    output: Path
    prompts: str | None
    """Data whose prompts are answered; None: the prompts that the runs hold out."""
    n: int | None
    """Answers of each policy to each prompt; None: evaluation.num_samples."""
    pool: int
    """Answers before training to each prompt, for a judge that scores."""
    max_new_tokens: int | None
    limit: int | None
    seed: int
    resume: bool

    def __post_init__(self) -> None:
        for name, least in (("n", 1), ("pool", 2), ("max_new_tokens", 1), ("limit", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} is {value}; it must be at least {least}", code="out_of_range", key=name)

    @property
    def samples(self) -> int:
        """Answers of each policy to each prompt."""
        return self.n or self.base.evaluation.num_samples


def require_one_start(settings: Iterable[RunSettings | LoopRunSettings]) -> None:
    """Require that all runs start from one language model, since KL is measured to it.

    Raises:
        ConfigError: models differ, or a run trains a reward model.
    """
    models = set()
    for one in settings:
        models.add((one.model.path, one.model.revision, one.model.adapter))
        if one.objective.get("name") == "reward_model":
            raise ConfigError(
                "a reward model draws no answers, so it has no KL; name another objective",
                code="not_a_policy",
                key="objective",
            )
    if len(models) > 1:
        raise ConfigError(
            f"the runs start from different models ({', '.join(sorted(m[0] for m in models))}); KL is measured to "
            "the model before training, so all runs must start from one",
            code="other_model",
            key="model.path",
        )


def train_point(
    output: Path, name: str, point: SweepPoint, resume: bool, progress: ProgressCallback
) -> tuple[FinishedRun | None, str]:
    """Train one run in the folder of a study. Return it, or None and its error."""
    path = output / "runs" / name
    found: ComparedRun = run_point(name, replace(point.settings, output=path), point.values, resume, progress)
    return (None, found.error) if found.report is None else (finished(name, point, path), "")


def count_trained_prompts(runs: Iterable[FinishedRun], rows: Sequence[AnswerRow]) -> int:
    """Return how many of the prompts a run was trained on."""
    trained = {key for run in runs for key in trained_prompts(run.path) or ()}
    return sum(prompt_key(row.prompt) in trained for row in rows)


@dataclass(frozen=True)
class Answered:
    """A policy with its answers."""

    name: str
    knobs: Mapping[str, Any]
    step: int | None
    rows: list[AnswerRow]

    @property
    def label(self) -> str:
        """Its name, with the step of a checkpoint."""
        return self.name if self.step is None else f"{self.name} at step {self.step}"


@dataclass(frozen=True, eq=False)
class JudgedPolicies:
    """What a judge said of the answers of several policies."""

    judge: str
    samples: list[PolicySamples]
    """In the order of the policies."""
    pool: Floats | None
    """[P, N] scores of the answers before training; None with a judge that compares."""
    reference: list[AnswerRow]
    """The answers before training, of the prompts that are kept."""
    left_out: Mapping[str, int]
    """Cause → prompts that were left out."""


@dataclass(eq=False)
class PolicyStudy:
    """Draws and judges the answers of one study."""

    plan: AnswerPlan
    judge: Scorer | Comparer
    progress: ProgressCallback
    reference: Policy | None = None
    """The policy before training, once it is loaded."""
    held_out: list[Row] | None = None
    drawn: dict[str, list[AnswerRow]] = field(default_factory=dict)
    scored: dict[str, Floats] = field(default_factory=dict)
    """Log-probabilities before training of the answers of each policy."""

    @property
    def pool_size(self) -> int:
        """Answers before training to each prompt: a pool for a judge that scores, else one for each of a policy's."""
        return self.plan.pool if isinstance(self.judge, Scorer) else self.plan.samples

    def before_training(self) -> Policy:
        """Return the policy before training."""
        if self.reference is None:
            self.reference = load_policy(replace(self.plan.base.model, lora=None), choice=STOCK)
        return self.reference

    def release(self) -> None:
        """Drop the loaded policy, so that training does not share the memory with it."""
        self.reference = None

    def answers_before_training(self) -> list[AnswerRow]:
        """Return the answers of the policy before training."""
        return self.draw(REFERENCE, self.plan.base.model.path, self.pool_size, self.before_training)

    def draw(self, name: str, model: str, n: int, policy: Callable[[], Policy] | None = None) -> list[AnswerRow]:
        """Return the answers of a model to the prompts, drawn now or in an earlier call."""
        if name not in self.drawn:
            plan = self.plan
            folder = plan.output / "answers"
            folder.mkdir(parents=True, exist_ok=True)
            if plan.prompts is None and self.held_out is None:
                self.held_out = held_out_rows(plan.base.data)
            data = plan.base.data
            if plan.prompts is not None:
                data = replace(
                    data, train=plan.prompts, eval=None, eval_fraction=None, split=None, eval_split=None,
                    subset=None, revision=None, columns={}, ignore=(),
                )  # fmt: skip
            drawing = Drawing(
                prompts=plan.prompts,
                n=n,
                temperatures=(1.0,),
                max_new_tokens=plan.max_new_tokens or plan.base.evaluation.max_new_tokens,
                seed=plan.seed,
                limit=plan.limit or (None if plan.prompts else plan.base.evaluation.num_prompts),
                folder=folder,
                is_continued=plan.resume,
                data=data,
                rows=self.held_out,
            )
            self.progress(f"sample {name}", 0, 0)
            settings = replace(plan.base.model, lora=None)
            if model != settings.path:
                settings = replace(settings, path=model, revision=None, adapter=None)
            rows = draw_answers(Named(name, model, "model"), drawing, self.progress, model=settings, policy=policy)
            self.drawn[name] = list(rows)
        return self.drawn[name]

    def answers_of(self, run: FinishedRun) -> Answered:
        """Return the answers of a trained policy."""
        rows = self.draw(run.name, str(run.path / "model"), self.plan.samples)
        return Answered(run.name, run.knobs, None, rows)

    def answers_of_checkpoints(self, runs: Iterable[FinishedRun]) -> list[Answered]:
        """Return the answers of all checkpoints that the runs have kept."""
        found = []
        for run in runs:
            folder = run.path / "checkpoints"
            for step in checkpoint.steps_in(folder):
                path = checkpoint.folder_of(folder, step)
                if reason := checkpoint.damage(path):
                    raise RunError(f"{path}: this checkpoint cannot be read: {reason}", code="damaged")
                rows = self.draw(
                    Answered(run.name, run.knobs, step, []).label,
                    str(path),
                    self.plan.samples,
                    lambda run=run, path=path: policy_at(run.settings, path),  # type: ignore[misc]
                )
                found.append(Answered(run.name, run.knobs, step, rows))
        return found

    def kl_of(self, run: FinishedRun) -> Floats:
        """Return the KL of a trained policy to the policy before training at each prompt."""
        answered = self.answers_of(run)
        gaps: Floats = (logps_of(answered.rows) - self.ref_logps(answered)).mean(1)
        return gaps

    def ref_logps(self, answered: Answered) -> Floats:
        """Return the log-probabilities of answers under the policy before training, [P, n]."""
        if answered.label in self.scored:
            return self.scored[answered.label]
        self.progress("log-probabilities before training", 0, 0)
        prompts, answers = [], []
        for row in answered.rows:
            assert row.prompt_ids is not None, "drawn here"
            assert row.token_ids is not None, "drawn here"
            prompts.append(row.prompt_ids)
            answers.append([EngineAnswer(t, e, None, None) for t, e in zip(row.token_ids, row.ended, strict=True)])
        scored = with_logps(self.before_training().module, prompts, answers)
        found = np.array([[answer.logp for answer in own] for own in scored], dtype=np.float64)
        self.scored[answered.label] = found
        return found

    def judged(self, reference: list[AnswerRow], everyone: Sequence[Answered]) -> "JudgedPolicies":
        """Judge all answers. Prompts where a judgement failed are left out for all policies.

        Raises:
            RunError: more than `MAX_ERRORS` of the prompts are left out.
        """
        with JudgementCache() as cache:
            return self._judged(cached(self.judge, cache), reference, everyone)

    def _judged(
        self, judge: Scorer | Comparer, reference: list[AnswerRow], everyone: Sequence[Answered]
    ) -> "JudgedPolicies":
        pool = None
        if isinstance(judge, Scorer):
            pool = np.array(score_rows(judge, reference, self.progress, f"judge {REFERENCE}"))
            scores = [np.array(score_rows(judge, p.rows, self.progress, f"judge {p.label}")) for p in everyone]
            wins = [win_shares(own, pool).mean(1) for own in scores]
            judged = np.isfinite(np.stack([pool.sum(1), *(own.sum(1) for own in scores)]))
        else:
            scores = []
            wins = [self.wins_by_comparing(judge, p, reference) for p in everyone]
            judged = np.isfinite(np.stack(wins))
        good = np.logical_and.reduce(judged)
        left_out = Counter({"a judgement failed": int((~good).sum())} if not good.all() else {})
        if left_out.total() > MAX_ERRORS * len(good):
            raise RunError(
                f"{left_out.total()} of {len(good)} prompts have an answer without a judgement, and at most "
                f"{MAX_ERRORS:.0%} may. Judge again; what was judged is not paid twice",
                code="judge_errors",
                key="judge",
            )
        kept = np.flatnonzero(good)
        samples = [
            PolicySamples(
                name=p.name,
                knobs=p.knobs,
                step=p.step,
                logps=logps_of(p.rows)[kept],
                ref_logps=self.ref_logps(p)[kept],
                ended=np.array([row.ended for row in p.rows])[kept],
                num_tokens=np.array([[len(t) for t in row.token_ids or ()] for row in p.rows], dtype=np.float64)[kept],
                scores=scores[i][kept] if scores else None,
                wins=wins[i][kept],
            )
            for i, p in enumerate(everyone)
        ]
        return JudgedPolicies(
            judge.name, samples, None if pool is None else pool[kept], [reference[i] for i in kept], dict(left_out)
        )

    def wins_by_comparing(self, judge: Comparer, policy: Answered, reference: list[AnswerRow]) -> Floats:
        """Return at each prompt how often a judge prefers the policy's answers to those before training."""
        own = System("policy", tuple(policy.rows))
        other = System(REFERENCE, tuple(reference))
        contests = hold_contests(
            align([own, other]), judge, None, lambda d, t: self.progress(f"judge {policy.label}", d, t)
        )
        values = {contest.prompt: contest.value for contest in contests}
        found = [values[prompt_key(row.prompt)] for row in policy.rows]
        return np.array([math.nan if value is None else value for value in found])


def logps_of(rows: Sequence[AnswerRow]) -> Floats:
    """Return the log-probabilities of answers under the policy that drew them, [P, n], nats per response."""
    return np.array([row.logps for row in rows], dtype=np.float64)


def policy_at(settings: RunSettings, path: Path) -> Policy:
    """Return the policy of a run at a checkpoint."""
    policy = load_policy(settings.model, choice=STOCK)
    restore_policy(policy.module, checkpoint.load(path).policy)
    return policy
