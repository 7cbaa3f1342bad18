"""The frontier recipe: trained policies on the plane of KL and reward, beside best-of-n and what is attainable."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiltlm.core import ConfigError, RunError
from tiltlm.evaluation.answers.knob_trials import KnobSearch
from tiltlm.evaluation.answers.loop_curve import LoopCurve
from tiltlm.evaluation.answers.plane import Plane, measure_plane
from tiltlm.judging import Comparer, Scorer
from tiltlm.models.folders import short_name
from tiltlm.recipes.answers.systems import label_judges, open_judge, refuse_own_family
from tiltlm.recipes.progress import ProgressCallback, silent
from tiltlm.recipes.studies.best_of_n import sizes_up_to
from tiltlm.recipes.studies.finished_loops import FinishedLoop, common_judge, curves_of, judge_text, pleasing
from tiltlm.recipes.studies.knob_search import Target, search_knob
from tiltlm.recipes.studies.sweep import SweepPoint, run_name
from tiltlm.recipes.studies.trained_policies import (
    AnswerPlan,
    FinishedRun,
    PolicyStudy,
    count_trained_prompts,
    logps_of,
    require_one_start,
    train_point,
)
from tiltlm.recipes.study_checks import check_call, check_folder

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FrontierRequest:
    """What is measured, and where the results go."""

    points: tuple[SweepPoint, ...]
    """Runs to train; empty if `runs` or `loops` are given."""
    runs: tuple[FinishedRun, ...]
    judge: Any
    """Settings of the judge; or a judge. None, with loops alone: the one that they have in common."""
    plan: AnswerPlan
    loops: tuple[FinishedLoop, ...] = ()
    """Loops, whose rounds are on their cards."""
    target: Target | None = None
    """A KL to find the value of the knob for."""
    checkpoints: bool = False
    markdown: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        given = {"resume": self.plan.resume, "overwrite": self.overwrite}
        if self.is_of_cards_alone:
            check_folder(self.plan.output, **given)
        else:
            check_call(self.judge, self.plan.output, **given)
        trained = [*(point.settings for point in self.points), *(run.settings for run in self.runs)]
        require_one_start([*trained, *(loop.settings for loop in self.loops)])

    @property
    def is_of_cards_alone(self) -> bool:
        """True if nothing is drawn or judged: loops are shown, and no judge is named."""
        return self.judge is None and bool(self.loops) and not (self.points or self.runs)


@dataclass(frozen=True, repr=False)
class Frontier:
    """A finished study, as a terminal and a notebook look at it."""

    path: Path
    """The folder with `frontier.html`, `frontier.json`, the answers, and the runs."""
    plane: Plane
    search: KnobSearch | None = None
    """How the value of the knob was found that spends a KL; None if none was asked for."""

    def __repr__(self) -> str:
        from tiltlm.report.studies.frontier import sentences_of

        lines = [f"  {sentence}" for sentence in sentences_of(self.plane, self.search)]
        size = len(self.plane.points) + sum(len(curve.points) for curve in self.plane.loops)
        return "\n".join([f"Frontier: {size} points, judge {self.plane.judge}", *lines])

    def _repr_html_(self) -> str:
        """Return the page for a notebook."""
        from tiltlm.report.page import in_frame
        from tiltlm.report.studies.frontier import render_frontier

        return in_frame(render_frontier(self.plane, self.search))

    def summary(self) -> str:
        """Return what the command line prints at the end."""
        from tiltlm.report.studies.frontier import sentences_of

        return "\n".join([*sentences_of(self.plane, self.search), "", f"report  {self.path / 'frontier.html'}"])

    def to_pandas(self) -> pd.DataFrame:
        """Return one row for each point and checkpoint: its settings, and its numbers with the ends of intervals."""
        import pandas as pd

        from tiltlm.report.studies.frontier import rows_of_plane

        return pd.DataFrame(rows_of_plane(self.plane))


def frontier(request: FrontierRequest, *, progress: ProgressCallback = silent) -> Frontier:
    """Train what is to be trained, sample all policies, judge their answers, and write the page.

    Raises:
        TiltError: something is wrong; what can be seen before a model is loaded is refused then.
    """
    plan = request.plan
    if request.is_of_cards_alone:
        shared = common_judge(request.loops)
        plane = Plane(
            judge_text(shared), short_name(plan.base.model.path), 0, 0, 0, base=None, points=(), checkpoints={},
            best_of_n=None, best_of_n_win_rates=(), tilt=None, loops=curves_of(request.loops, shared),
            same_judge=pleasing(request.loops, shared),
        )  # fmt: skip
        return written(request, plane)
    judge = open_judge(request.judge)
    curves = loop_curves(request, judge)
    study = PolicyStudy(plan, judge, progress)
    reference = study.answers_before_training()
    refuse_own_family(judge, request.judge, reference)
    study.release()
    runs, failed = train_points(request, progress)
    search = None
    if request.target is not None:
        target = request.target

        def train(value: float, number: int) -> FinishedRun:
            study.release()
            return train_at(request, target, value, number, progress)

        search, found = search_knob(target, runs, study.kl_of, train)
        runs = [*runs, *found]
    if not runs and not curves:
        raise RunError(f"none of the runs finished: {failed}", code="no_runs", key="training")
    policies = [study.answers_of(run) for run in runs]
    checkpoints = study.answers_of_checkpoints(runs) if request.checkpoints else []
    judged = study.judged(reference, [*policies, *checkpoints])
    plane = measure_plane(
        judged.judge,
        short_name(plan.base.model.path),
        judged.samples[: len(policies)],
        judged.samples[len(policies) :],
        judged.pool,
        pool_size=study.pool_size,
        pool_logps=logps_of(judged.reference),
        pool_keys=[[t.tobytes() for t in row.token_ids or ()] for row in judged.reference],
        sizes=sizes_up_to(study.pool_size),
        seed=plan.seed,
        left_out=judged.left_out,
        failed=failed,
        same_judge=(
            *(run.name for run in runs if judge.digest in label_judges(run.path)),
            *pleasing(request.loops, request.judge),
        ),
        loops=curves,
        trained_on=count_trained_prompts(runs, reference),
    )
    return written(request, plane, search)


def written(request: FrontierRequest, plane: Plane, search: KnobSearch | None = None) -> Frontier:
    """Write the page, and return the study."""
    from tiltlm.report.studies.frontier import write_frontier

    write_frontier(request.plan.output, plane, search, markdown=request.markdown)
    return Frontier(request.plan.output, plane, search)


def loop_curves(request: FrontierRequest, judge: Scorer | Comparer) -> tuple[LoopCurve, ...]:
    """Return the curves of the loops by the scores of a judge.

    Raises:
        ConfigError: the judge compares, or a loop has no score of it.
    """
    if request.loops and not isinstance(judge, Scorer):
        raise ConfigError(
            f"{judge.name} compares, and the rounds of loops have scores; name a judge that scores, or leave out the "
            "loops",
            code="wrong_type",
            key="judge",
        )
    return curves_of(request.loops, request.judge)


def train_points(request: FrontierRequest, progress: ProgressCallback) -> tuple[list[FinishedRun], dict[str, str]]:
    """Train at every point. Return the finished runs, and the errors of those that failed."""
    runs, failed = list(request.runs), {}
    for index, point in enumerate(request.points):
        name = run_name(index, point.values)
        log.info("%s: run %d of %d", name, index + 1, len(request.points))
        found, error = train_point(request.plan.output, name, point, request.plan.resume, progress)
        if found is None:
            failed[name] = error
        else:
            runs.append(found)
    return runs, failed


def train_at(
    request: FrontierRequest, target: Target, value: float, number: int, progress: ProgressCallback
) -> FinishedRun:
    """Train one run at a value of the knob that is searched for.

    Raises:
        RunError: the run failed.
    """
    point = SweepPoint({target.knob: value}, target.at(value))
    name = run_name(len(request.points) + number, point.values)
    found, error = train_point(request.plan.output, name, point, request.plan.resume, progress)
    if found is None:
        raise RunError(f"{name}: {error}", code="run_failed", key=target.knob)
    return found
