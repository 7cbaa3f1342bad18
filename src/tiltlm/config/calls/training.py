"""The calls that train, and those around them: quickstart, train, score, sweep, preview.

Settings are a YAML file (or its content) and keyword arguments that override it: sections (`model="path"`), dotted keys
(`**{"training.seed": 1}`), or bare keys that only one section has (`beta=0.2`). Data may also be rows in memory: a list
of mappings, a pandas frame, a `datasets.Dataset`. An objective may be an object (`tiltlm.objectives.dpo(0.1)`). What is
heavy is imported inside the functions, so that `tiltlm --help` is quick.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiltlm.config.command import command
from tiltlm.recipes.progress import ProgressCallback, silent

if TYPE_CHECKING:
    from tiltlm.config.resolve import Config
    from tiltlm.data import Preview
    from tiltlm.recipes.sweep import Sweep
    from tiltlm.recipes.trained_run import TrainedRun

__all__ = ["preview", "quickstart", "score", "sweep", "train"]

NO_OUTPUT = {"output": "."}
"""Default of commands that write no run; they do not use it."""


@command()
def quickstart(
    *,
    output: str | Path = "quickstart-run",
    overwrite: bool = False,
    seed: int = 0,
    progress: ProgressCallback = silent,
) -> "TrainedRun":
    """Run a complete small alignment, offline, in minutes.

    It samples from a bundled tiny model, labels the samples by a known reward, trains DPO, and reports the gain beside
    the largest gain that is possible.

    Args:
        output: Folder of the run.
        overwrite: Delete the run in this folder and start again.
        seed: Seed of the samples, the labels and the order of training.
        progress: Called with label, units done, units in all, and figures to show.

    Returns:
        The finished run; its folder holds `model/` and `report.html`.
    """
    from tiltlm.recipes.quickstart import quickstart as recipe

    return recipe(Path(output), overwrite=overwrite, seed=seed, progress=progress)


@command("model", "data", "objective", "output", "store")
def train(
    config: "Config" = None,
    /,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: ProgressCallback = silent,
    **settings: Any,
) -> "TrainedRun":
    """Train a policy from preferences and report whether it helped.

    Args:
        config: A YAML file, or its content.
        resume: Continue the run in the output folder from its newest intact checkpoint.
        overwrite: Delete the run in the output folder and start again.
        progress: Called with label, units done, units in all, and figures to show.
        **settings: Overrides of `config`. Model, data, objective and output must be given in one of the two.

    Returns:
        The finished run; its folder holds `model/` and `report.html`.

    Raises:
        TiltError: Something is wrong. If it is found before the first step, nothing has been written.
    """
    from tiltlm.config.resolve import resolve
    from tiltlm.recipes.run_settings import RunSettings
    from tiltlm.recipes.train import train as recipe

    return recipe(resolve(RunSettings, config, **settings), resume=resume, overwrite=overwrite, progress=progress)


@command("model", "data", "objective", "reference", "store")
def score(
    config: "Config" = None,
    /,
    *,
    per_example: str | Path | None = None,
    progress: ProgressCallback = silent,
    **settings: Any,
) -> dict[str, Any]:
    """Compute loss and metrics of data as one step.

    Args:
        config: A YAML file, or its content.
        per_example: File to write with one JSON line per example.
        progress: Called with label, units done, units in all, and figures to show.
        **settings: Overrides of `config`. Model, data and objective must be given in one of the two, and the reference
            if the objective needs one.

    Returns:
        `objective`, `num_examples`, `loss` and `metrics`.
    """
    from tiltlm.config.resolve import resolve
    from tiltlm.recipes.run_settings import SCORE_READS, RunSettings
    from tiltlm.recipes.score import score as recipe

    resolved = resolve(RunSettings, config, NO_OUTPUT, SCORE_READS, **settings)
    return recipe(resolved, per_example=None if per_example is None else Path(per_example), progress=progress)


@command("model", "data", "objective", "output", "store")
def sweep(
    config: "Config",
    grid: Sequence[str] | Mapping[str, Sequence[Any]],
    /,
    *,
    points: str | Path | Mapping[str, Mapping[str, Any]] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: ProgressCallback = silent,
    **settings: Any,
) -> "Sweep":
    """Train over a grid of settings and compare the runs.

    Runs that differ only in `training.seed` are repetitions: the comparison shows their mean.

    Args:
        config: A YAML file, or its content; None if `settings` give everything.
        grid: Values of each key, as a mapping or as texts `key=v1,v2,...`. A key with one value is a plain setting.
        points: A YAML file, or its content: name → settings of a point, for methods that differ in several settings,
            such as `ipo: {objective: {name: ipo, tau: 0.1}}`. Every point is run with every combination of the grid.
        resume: Keep the runs that are complete, and continue or start the others.
        overwrite: Delete the runs in the output folder and start again.
        progress: Called with label, units done, units in all, and figures to show.
        **settings: Overrides of `config`, the same for all runs; `output` is the folder of the sweep.

    Returns:
        The finished sweep; its folder holds `comparison.html` and one folder per run.
    """
    from tiltlm.config.resolve import parse_grid, read_points, refuse_given_twice, resolve
    from tiltlm.config.schema import Schema
    from tiltlm.core import ConfigError
    from tiltlm.recipes.run_settings import RunSettings
    from tiltlm.recipes.sweep import SweepPoint, combinations
    from tiltlm.recipes.sweep import sweep as recipe

    schema = Schema(RunSettings)
    values = grid if isinstance(grid, Mapping) else parse_grid(schema, grid)
    bundles = read_points(points)
    refuse_given_twice(schema, values, settings, *bundles.values())
    fixed = {**settings, **{key: vs[0] for key, vs in values.items() if len(vs) == 1}}
    varied = {key: list(vs) for key, vs in values.items() if len(vs) > 1}
    if not varied and len(bundles) < 2:
        raise ConfigError(
            "nothing varies; give several values to a key, such as objective.beta=0.05,0.1,0.5, or several points",
            code="nothing_varies",
            key="grid",
        )
    runs = [
        SweepPoint({**({"point": name} if name else {}), **p}, resolve(RunSettings, config, **fixed, **bundle, **p))
        for name, bundle in bundles.items()
        for p in combinations(varied)
    ]
    return recipe(runs, resume=resume, overwrite=overwrite, progress=progress)


@command("model", "objective", argument="data")
def preview(config: "Config" = None, /, *, rows: int = 3, **settings: Any) -> list["Preview"]:
    """Show the first rows as tokens, with the scored ones marked.

    Only the tokenizer of the model is loaded.

    Args:
        config: A YAML file, or its content.
        rows: Number of rows.
        **settings: Overrides of `config`. Model and data must be given in one of the two; the objective is `dpo` unless
            it is given.
    """
    from tiltlm.config.resolve import resolve
    from tiltlm.recipes.preview import preview as recipe
    from tiltlm.recipes.run_settings import PREVIEW_READS, RunSettings

    defaults = {**NO_OUTPUT, "objective": "dpo"}
    return recipe(resolve(RunSettings, config, defaults, PREVIEW_READS, **settings), rows=rows)
