"""The call that measures reward against KL. What is heavy is imported inside the function."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiltlm.config.calls.grids import Grid, GridRun, runs_of_grid
from tiltlm.config.command import command
from tiltlm.recipes.progress import ProgressCallback, display, quiet_libraries

if TYPE_CHECKING:
    from tiltlm.config.resolve import Config
    from tiltlm.recipes.run_settings import RunSettings
    from tiltlm.recipes.studies.finished_loops import FinishedLoop
    from tiltlm.recipes.studies.frontier import Frontier
    from tiltlm.recipes.studies.knob_search import Target
    from tiltlm.recipes.studies.trained_policies import FinishedRun

__all__ = ["frontier"]

SEED = "training.seed"


@command("model", "data", "objective", "store")
def frontier(
    config: "Config",
    grid: Grid = (),
    /,
    *,
    judge: Any = None,
    prompts: str | Path | None = None,
    points: str | Path | Mapping[str, Mapping[str, Any]] | None = None,
    kl: float | None = None,
    checkpoints: bool = False,
    n: int | None = None,
    pool: int = 128,
    max_new_tokens: int | None = None,
    limit: int | None = None,
    output: str | Path = "frontier",
    markdown: bool = False,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    progress: ProgressCallback | bool | None = True,
    **settings: Any,
) -> "Frontier":
    """Measure reward against KL over a knob.

    Trains at every value of the grid, or takes finished runs. Samples each policy at temperature 1, and draws reward
    and win rate over the measured KL, beside best-of-n of the policy before training and the most that is attainable at
    each KL.

    Args:
        config: A YAML file, or its content; or the folders of runs, loops or a sweep, which are not trained again. A
            loop is a curve with one point a round, from its cards.
        grid: Values of each key, as a mapping or as texts `key=v1,v2,...`, such as objective.beta=0.03,0.1,0.3.
        judge: What judges: KIND:ARGUMENT, such as reward_model:FOLDER or gold, or a YAML file with its settings. With
            loops alone it may be missing: then nothing is drawn, and the page has the scores of their rounds.
        prompts: Data of any shape whose prompts are answered; without it, the prompts that the runs hold out.
        points: A YAML file, or its content: name → settings of a point, as in a sweep.
        kl: Find the value of the knob that spends this KL, in nats per response, by training at further values.
        checkpoints: Measure the checkpoints of the runs too; training.save_every says how many there are.
        n: Answers of each policy to each prompt; without it evaluation.num_samples.
        pool: Answers before training to each prompt, for best-of-n and the frontier.
        max_new_tokens: An answer is cut after this many tokens; without it evaluation.max_new_tokens.
        limit: Most prompts; without it evaluation.num_prompts, if the prompts are held-out ones.
        output: Folder of the results; it must be new or empty.
        markdown: Write frontier.md too, a summary for a pull request or a model card.
        seed: Seed of answers and intervals.
        resume: Keep the runs and the answers that are in the output folder, and go on.
        overwrite: Train and draw again.
        progress: True shows it: as a bar, in a notebook as a line. False: nothing is shown. A function is called with
            label, units done, units in all, and figures to show.
        **settings: Overrides of `config`, the same for all runs.

    Returns:
        The plane: `plane`, `to_pandas()`, and `path` of the folder with frontier.html.

    Raises:
        TiltError: Something is wrong; the message says what to change.
    """
    from tiltlm.config.calls.comparing import judge_of
    from tiltlm.recipes.study_checks import check_call

    with display(progress) as draw:
        made, folder = judge_of(judge), Path(output)

        def check(_: Any = None) -> None:
            check_call(made, folder, resume=resume, overwrite=overwrite)

        given, looped = run_folders(config, grid)
        target: Target | None = None
        trained: list[GridRun] = []
        finished: list[FinishedRun] = []
        loops: list[FinishedLoop] = []
        if given or looped:
            refuse_settings({**settings, "points": points, "kl": kl})
            if given:
                check()
            else:
                sizes = {"n": n, "max_new_tokens": max_new_tokens, "limit": limit}
                check_loops_alone(made, prompts, checkpoints=checkpoints, **sizes)
            finished, loops = finished_runs(given), finished_loops(looped)
        else:
            kept = {"training.keep_checkpoints": ALL_CHECKPOINTS} if checkpoints else {}
            overrides = {**kept, **settings, "output": str(folder / "runs")}
            if kl is not None:
                target, grid = target_of(config, kl, grid, overrides)
            trained = runs_of_grid(config, grid, points, overrides, draw, check, allows_one=True)
        from tiltlm.recipes.studies.frontier import FrontierRequest
        from tiltlm.recipes.studies.frontier import frontier as recipe
        from tiltlm.recipes.studies.sweep import SweepPoint
        from tiltlm.recipes.studies.trained_policies import AnswerPlan

        plan = AnswerPlan(
            base=(trained or finished)[0].settings if trained or finished else as_run(loops[0]),
            output=folder,
            prompts=None if prompts is None else str(prompts),
            n=n,
            pool=pool,
            max_new_tokens=max_new_tokens,
            limit=limit,
            seed=seed,
            resume=resume,
        )
        request = FrontierRequest(
            points=tuple(SweepPoint(run.values, run.settings) for run in trained),
            runs=tuple(finished),
            judge=made,
            plan=plan,
            loops=tuple(loops),
            target=target,
            checkpoints=checkpoints,
            markdown=markdown,
            overwrite=overwrite,
        )
        with quiet_libraries():
            return recipe(request, progress=draw)


ALL_CHECKPOINTS = 10_000


def run_folders(config: Any, grid: Grid) -> tuple[list[Path], list[Path]]:
    """Return the folders of runs, and of loops, that are named in place of a configuration.

    A sweep's folder stands for its runs.

    Raises:
        ConfigError: a folder is no run, or runs and settings are given at once.
    """
    from tiltlm.core import ConfigError
    from tiltlm.runs import RunDirectory

    listed = list(config) if isinstance(config, list | tuple) else [config]
    texts = [] if isinstance(grid, Mapping) else list(grid)
    folders = [Path(text) for text in (*listed, *texts) if isinstance(text, str | Path) and Path(text).is_dir()]
    if not folders:
        return [], []
    if len(folders) < len(listed) + len(grid):
        raise ConfigError(
            "folders of runs and settings are given at once; a finished run is not trained again, so give either one",
            code="conflict",
            key="config",
        )
    found = []
    for folder in folders:
        own = [folder] if (folder / RunDirectory.MARKER).exists() else sorted(
            path.parent for path in folder.glob(f"*/{RunDirectory.MARKER}")
        )  # fmt: skip
        if not own:
            raise ConfigError(f"{folder} is no run and holds none", code="no_run", key="config")
        found += own
    looped = [folder for folder in found if (folder / "rounds").is_dir()]
    return [folder for folder in found if folder not in looped], looped


def check_loops_alone(judge: Any, prompts: Any, **given: Any) -> None:
    """Require prompts for the frontier of loops if a judge is named, and refuse what nothing reads.

    Raises:
        ConfigError: prompts are missing, or a setting has no effect.
    """
    from tiltlm.core import ConfigError

    if judge is not None and prompts is None:
        raise ConfigError(
            "a judge is named, so answers before training are drawn for the frontier, and loops hold out no prompts; "
            "give --prompts DATA, or leave out --judge",
            code="missing_setting",
            key="prompts",
        )
    unread = ("n", "checkpoints") if judge is not None else (*given, "prompts")
    for name, value in {**given, "prompts": prompts}.items():
        if name in unread and value not in (None, False):
            raise ConfigError(
                f"{name} has no effect on loops, whose rounds are on their cards; remove it",
                code="no_effect",
                key=name,
            )


def refuse_settings(settings: Mapping[str, Any]) -> None:
    """Refuse settings that do nothing where finished runs are measured.

    Raises:
        ConfigError: one is given.
    """
    from tiltlm.core import ConfigError

    for name, value in settings.items():
        if value is not None:
            raise ConfigError(
                f"{name} has no effect on runs that are finished; remove it, or name a configuration",
                code="no_effect",
                key=name,
            )


def finished_runs(folders: Sequence[Path]) -> "list[FinishedRun]":
    """Return finished runs with the settings that differ between them.

    Raises:
        ConfigError: a run has not ended, or its configuration cannot be read.
    """
    from dataclasses import asdict, replace

    from tiltlm.config.resolve import resolve
    from tiltlm.evaluation.answers.plane import knob_text
    from tiltlm.recipes.answers.systems import name_systems
    from tiltlm.recipes.run_settings import RunSettings
    from tiltlm.recipes.studies.trained_policies import FinishedRun

    named = name_systems(folders)
    read = [resolve(RunSettings, folder / "config.yaml") for folder in folders]
    found = []
    for one, folder, settings, knobs in zip(
        named, folders, read, differences([asdict(replace(settings, output=Path())) for settings in read]), strict=True
    ):
        label = knob_text(knobs) if 0 < len(knobs) <= 2 else one.name
        found.append(FinishedRun(label, {k: v for k, v in knobs.items() if k != SEED}, settings, folder))
    return found


def finished_loops(folders: Sequence[Path]) -> "list[FinishedLoop]":
    """Return finished loops with the settings that differ between them.

    Raises:
        ConfigError: a loop has not ended, or its configuration cannot be read.
    """
    from dataclasses import asdict, replace

    from tiltlm.config.calls.loops import split_judges
    from tiltlm.config.judges import read_judge
    from tiltlm.config.resolve import resolve
    from tiltlm.recipes.answers.systems import name_systems
    from tiltlm.recipes.online.loop_run import LoopRunSettings
    from tiltlm.recipes.studies.finished_loops import FinishedLoop

    found = []
    for one, folder in zip(name_systems(folders), folders, strict=True):
        content, judges = split_judges(folder / "config.yaml", None, None)
        named = {k: read_judge(judge) for k, judge in zip(("reward", "held_out"), judges, strict=True) if judge}
        found.append(FinishedLoop(one.name, {}, resolve(LoopRunSettings, content), folder, named))  # type: ignore[arg-type]
    plain = [{**asdict(replace(loop.settings, output=Path())), "judges": str(loop.judges)} for loop in found]
    seeds = (SEED, "loop.seed")
    return [
        replace(loop, knobs={key: value for key, value in knobs.items() if key not in seeds})
        for loop, knobs in zip(found, differences(plain), strict=True)
    ]


def as_run(loop: "FinishedLoop") -> "RunSettings":
    """Return a loop as the settings of a run, for answers of the policy before its first round."""
    from tiltlm.recipes.run_settings import EvaluationSettings, RunSettings

    settings = loop.settings
    cut = EvaluationSettings(max_new_tokens=settings.sampling.max_new_tokens)
    return RunSettings(settings.model, settings.data, settings.objective, settings.output, evaluation=cut)


def differences(trees: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return of each nested mapping the values that are not the same in all of them, by their dotted keys."""
    flat = [_flat(tree) for tree in trees]
    keys = dict.fromkeys(key for one in flat for key in one)
    differing = [key for key in keys if len({repr(one.get(key)) for one in flat}) > 1]
    return [{key: one[key] for key in differing if key in one} for one in flat]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by their dotted keys."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        inner = _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
        found |= inner
    return found


def target_of(
    config: "Config", kl: float, grid: Grid, overrides: Mapping[str, Any]
) -> "tuple[Target, Mapping[str, Sequence[Any]]]":
    """Return the KL to search for, and the grid as a mapping.

    Args:
        config: A YAML file, or its content.
        kl: The wanted KL.
        grid: Values of each key.
        overrides: Overrides of all runs.

    Raises:
        ConfigError: the KL is not above 0, or the grid has not exactly one knob with several values.
    """
    from tiltlm.config.in_memory import plain
    from tiltlm.config.resolve import parse_grid, resolve
    from tiltlm.config.schema import Schema
    from tiltlm.core import ConfigError
    from tiltlm.recipes.run_settings import RunSettings
    from tiltlm.recipes.studies.knob_search import Target

    listed = grid if isinstance(grid, Mapping) else parse_grid(Schema(RunSettings), grid)
    knobs = [key for key, values in listed.items() if key != SEED and len(values) > 1]
    if len(knobs) != 1:
        raise ConfigError(
            f"kl searches over one knob, and {len(knobs)} have several values ({', '.join(knobs) or 'none'}); give one "
            "two values to begin with, such as objective.beta=0.03,1",
            code="wrong_number",
            key="kl",
        )
    shared = {**overrides, **{key: values[0] for key, values in listed.items() if len(values) == 1}}
    content = plain(config)

    def at(value: float) -> RunSettings:
        return resolve(RunSettings, content, **plain({**shared, knobs[0]: value}))

    return Target(knobs[0], kl, at), listed
