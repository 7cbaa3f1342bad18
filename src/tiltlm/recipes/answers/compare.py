"""The comparison recipe: answers of systems to the same prompts, judged, with one page about what came out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiltlm.core import ConfigError
from tiltlm.data.rows.cells import Conversation
from tiltlm.evaluation.answers.benchmark_files import (
    write_alpaca_annotations,
    write_alpaca_outputs,
    write_arena_answers,
    write_arena_judgements,
)
from tiltlm.evaluation.answers.system_comparison import SystemComparison, compare_systems
from tiltlm.evaluation.answers.systems import System, prompt_key
from tiltlm.judging.cache import JudgementCache, cached
from tiltlm.recipes.answers.systems import (
    Drawing,
    Named,
    file_name,
    name_systems,
    open_judge,
    read_systems,
    refuse_own_family,
    require_prompts,
)
from tiltlm.recipes.progress import ProgressCallback, silent
from tiltlm.recipes.study_checks import check_call

if TYPE_CHECKING:
    import pandas as pd

EXPORTS = ("alpaca_eval", "arena_hard")


@dataclass(frozen=True)
class ComparisonRequest:
    """What is compared, and where the results go."""

    systems: tuple[str, ...]
    """PATH or NAME=PATH of each."""
    prompts: str | None
    judge: Any
    """Settings of the judge, or their short form; or a judge."""
    output: Path
    baseline: str | None = None
    n: int = 1
    temperatures: tuple[float, ...] = (1.0,)
    max_new_tokens: int = 256
    limit: int | None = None
    seed: int = 0
    export: tuple[str, ...] = ()
    markdown: bool = False
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        if len(self.systems) < 2:
            raise ConfigError(
                f"{len(self.systems)} systems; a comparison needs at least two: tiltlm compare A B --prompts DATA "
                "--judge JUDGE",
                code="too_few_systems",
                key="systems",
            )
        unknown = [name for name in self.export if name not in EXPORTS]
        if unknown:
            raise ConfigError(
                f"export {unknown[0]!r}; known formats: {', '.join(EXPORTS)}", code="unknown_name", key="export"
            )
        check_call(self.judge, self.output, resume=self.resume, overwrite=self.overwrite)


@dataclass(frozen=True, repr=False)
class ComparedSystems:
    """A finished comparison, as a terminal and a notebook look at it."""

    path: Path
    """The folder with `compare.html` and `compare.json`."""
    comparison: SystemComparison
    prompts: Mapping[str, str | Conversation]
    """Prompt key → prompt."""

    def __repr__(self) -> str:
        from tiltlm.report.answers.compare import headline

        names = ", ".join(system.name for system in self.comparison.systems)
        lines = [f"  {sentence}" for sentence in headline(self.comparison).sentences]
        return "\n".join([f"ComparedSystems: {names}", *lines, f"  compare.html in {self.path}"])

    def _repr_html_(self) -> str:
        """Return the page for a notebook, in a frame, so that its style stays its own."""
        from tiltlm.report.answers.compare import render_compare

        page = escape(render_compare(self.comparison))
        return f'<iframe srcdoc="{page}" style="width: 100%; height: 640px; border: 0"></iframe>'

    def summary(self) -> str:
        """Return what the command line prints at the end."""
        from tiltlm.report.answers.compare import summary_lines

        return "\n".join([*summary_lines(self.comparison), "", f"report  {self.path / 'compare.html'}"])

    def to_pandas(self) -> pd.DataFrame:
        """Return a table with one row for each prompt, temperature and pair of systems."""
        import pandas as pd

        return pd.DataFrame(
            {
                "prompt_id": contest.prompt_id,
                "prompt": self.prompts.get(contest.prompt),
                "category": contest.category,
                "temperature": contest.temperature,
                "first": contest.first,
                "second": contest.second,
                "p_first": contest.value,
                **contest.counts,
                "length_gap": contest.gap,
                "trained_on": ", ".join(self.comparison.overlap.get(contest.prompt, ())),
            }
            for contest in self.comparison.contests
        )


def compare(request: ComparisonRequest, *, progress: ProgressCallback = silent) -> ComparedSystems:
    """Sample or read the answers, judge them, compare them, and write the page.

    Raises:
        TiltError: something is wrong; what can be seen before a model is loaded is refused then.
    """
    named = name_systems(request.systems)
    check_request(request, named)
    judge = open_judge(request.judge)
    drawing = Drawing(
        prompts=request.prompts,
        n=request.n,
        temperatures=request.temperatures,
        max_new_tokens=request.max_new_tokens,
        seed=request.seed,
        limit=request.limit,
        folder=request.output / "answers",
        is_continued=request.resume,
    )
    if any(one.kind != "answers" for one in named):
        drawing.folder.mkdir(parents=True, exist_ok=True)
    systems = read_systems(named, drawing, progress)
    refuse_own_family(judge, request.judge, (row for system in systems for row in system.rows))
    with JudgementCache() as cache:
        comparison = compare_systems(
            systems,
            cached(judge, cache),
            baseline=request.baseline,
            seed=request.seed,
            progress=lambda done, total: progress("judge", done, total),
        )
    write_results(request, systems, comparison)
    prompts = {prompt_key(row.prompt): row.prompt for row in systems[0].rows}
    return ComparedSystems(request.output, comparison, prompts)


def check_request(request: ComparisonRequest, named: list[Named]) -> None:
    """Refuse what can be seen to be wrong before anything is loaded.

    Raises:
        ConfigError: prompts are missing or have no effect, or the baseline is unknown.
    """
    models = [one for one in named if one.kind != "answers"]
    for one in named:
        require_prompts(one, request.prompts)
    defaults = {"n": 1, "temperatures": (1.0,), "max_new_tokens": 256, "limit": None}
    changed = [name for name, value in defaults.items() if getattr(request, name) != value]
    if not models and changed:
        raise ConfigError(
            f"{changed[0]} has no effect: all systems are files of answers, and nothing is sampled; remove it",
            code="no_effect",
            key=changed[0],
        )
    names = [one.name for one in named]
    if request.baseline is not None and request.baseline not in names:
        raise ConfigError(
            f"baseline {request.baseline!r} is none of the systems {', '.join(names)}",
            code="unknown_name",
            key="baseline",
        )


def write_results(request: ComparisonRequest, systems: list[System], comparison: SystemComparison) -> None:
    """Write the page, its JSON file, the contests, and files for other tools."""
    from tiltlm.report.answers.compare import write_compare

    request.output.mkdir(parents=True, exist_ok=True)
    write_compare(request.output, comparison, markdown=request.markdown)
    tables = {(s.name, prompt_key(row.prompt)): row for s in systems for row in reversed(s.rows)}
    for name in request.export:
        folder = request.output / name
        folder.mkdir(exist_ok=True)
        for system in systems:
            rows = list({prompt_key(row.prompt): row for row in reversed(system.rows)}.values())[::-1]
            if name == "alpaca_eval":
                write_alpaca_outputs(folder / f"{file_name(system.name)}.json", rows, system.name)
            else:
                write_arena_answers(folder / f"{file_name(system.name)}.jsonl", rows, system.name)
        for pair in comparison.pairs:
            own = [c for c in comparison.contests if (c.first, c.second) == (pair.first, pair.second)]
            own = [c for c in own if c.temperature == comparison.temperatures[0]]
            label = f"{file_name(pair.first)}-against-{file_name(pair.second)}"
            if name == "alpaca_eval":
                write_alpaca_annotations(folder / f"annotations-{label}.json", own, tables, comparison.judge)
            else:
                write_arena_judgements(folder / f"judgement-{label}.jsonl", own, comparison.judge)
