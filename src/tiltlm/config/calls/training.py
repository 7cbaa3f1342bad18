"""The calls that train, and those around them: quickstart, train, score, sweep, export, preview.

Settings are a YAML file (or its content) and keyword arguments that override it: sections (`model="path"`), dotted keys
(`**{"training.seed": 1}`), or bare keys that only one section has (`beta=0.2`). Data may also be rows in memory: a list
of mappings, a pandas frame, a `datasets.Dataset`. A model or a reference may be `(model, tokenizer)`, an objective an
object (`tiltlm.objectives.dpo(0.1)`). What is heavy is imported inside the functions, so that `tiltlm --help` is quick.

Importing torch and transformers takes seconds. So each function first refuses all that can be refused without torch,
then what needs the objective and so torch, and imports its recipe at the end.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiltlm.config.command import command
from tiltlm.recipes.progress import ProgressCallback, display, is_first, quiet_libraries

if TYPE_CHECKING:
    from tiltlm.config.resolve import Config
    from tiltlm.data.token_preview import Previews
    from tiltlm.recipes.runs.export import Exported
    from tiltlm.recipes.score import Scores
    from tiltlm.recipes.studies.sweep import Sweep
    from tiltlm.recipes.trained_run import TrainedRun

__all__ = ["export", "preview", "quickstart", "score", "sweep", "train"]

NO_OUTPUT = {"output": "."}
"""Default of commands that write no run; they do not use it."""


def announce_imports(draw: ProgressCallback) -> None:
    """Show that the heavy imports begin, if they are still to come."""
    if "transformers" not in sys.modules:
        draw("import torch, transformers", 0, 0)


@command()
def quickstart(
    *,
    output: str | Path = "quickstart-run",
    overwrite: bool = False,
    seed: int = 0,
    progress: ProgressCallback | bool | None = True,
) -> "TrainedRun":
    """Run a complete small alignment, offline, in minutes.

    It samples from a bundled tiny model, labels the samples by a known reward, trains DPO, and reports the gain beside
    the largest gain that is possible.

    Args:
        output: Folder of the run.
        overwrite: Delete the run in this folder and start again.
        seed: Seed of the samples, the labels and the order of training.
        progress: True shows it: as a bar, in a notebook as a line. False: nothing is shown. A function is called with
            label, units done, units in all, and figures to show.

    Returns:
        The finished run; its folder holds `model/` and `report.html`.
    """
    from tiltlm.runs import check_contents

    check_contents(Path(output), overwrite=overwrite)
    with display(progress) as draw:
        announce_imports(draw)
        from tiltlm.recipes.quickstart import quickstart as recipe

        with quiet_libraries():
            return recipe(Path(output), overwrite=overwrite, seed=seed, progress=draw)


@command("model", "data", "objective", "output", "store")
def train(
    config: "Config" = None,
    /,
    *,
    resume: bool = False,
    resume_if_exists: bool = False,
    overwrite: bool = False,
    push_to_hub: str | None = None,
    progress: ProgressCallback | bool | None = True,
    **settings: Any,
) -> "TrainedRun":
    """Train a policy from preferences and report if it helped.

    Args:
        config: A YAML file, or its content.
        resume: Continue the run in the output folder from its newest intact checkpoint.
        resume_if_exists: Continue the run if the output folder holds one, else start it: one command for the first
            start and for every restart by torchrun, Slurm or Kubernetes. It waits for an earlier writer to end.
        overwrite: Delete the run in the output folder and start again.
        push_to_hub: Repository on the Hugging Face Hub, NAME or OWNER/NAME: model, card and report are uploaded at
            the end. A new one is private. It is made before training, which shows that the token may write.
        progress: True shows it: as a bar, in a notebook as a line. False: nothing is shown. A function is called with
            label, units done, units in all, and figures to show.
        **settings: Overrides of `config`. Model, data, objective and output must be given in one of the two.

    Returns:
        The finished run; its folder holds `model/` and `report.html`. If the upload fails, `published` says why.

    Raises:
        TiltError: Something is wrong. If it is found before the first step, nothing has been written.
    """
    from tiltlm.config.resolve import draft
    from tiltlm.distributed.launched import in_first_process
    from tiltlm.recipes import run_settings as run
    from tiltlm.runs import check_start

    with display(progress) as draw:
        given = draft(run.RunSettings, config, **settings)
        output = given.settings.output
        continues = in_first_process(lambda: check_start(output, resume, overwrite, resume_if_exists))
        run.check_before_training(given.settings)
        columns = run.check_inputs(given.settings)
        repository = None if push_to_hub is None else checked_repository(push_to_hub)
        announce_imports(draw)
        resolved = given.complete()
        objective = resolved.build_objective()
        run.check_training(resolved, objective)
        run.check_data(objective, columns)
        from tiltlm.recipes.train import train as recipe

        with quiet_libraries():
            found = recipe(resolved, resume=continues, overwrite=overwrite, waits=resume_if_exists, progress=draw)
            if repository is None or not is_first():
                return found
            draw("upload", 0, 0)
            from tiltlm.recipes.runs.publishing import files_of, upload

            return replace(found, published=upload(found.path, repository, dict(files_of(found.path))))


def checked_repository(name: str) -> str:
    """Return the whole name of a repository on the hub to which the first process may upload."""
    from tiltlm.distributed.launched import in_first_process
    from tiltlm.recipes.runs.publishing import check_publishing

    return in_first_process(lambda: check_publishing(name, "--push-to-hub"))


@command("model", "data", "objective", "reference", "store")
def score(
    config: "Config" = None,
    /,
    *,
    per_example: str | Path | None = None,
    progress: ProgressCallback | bool | None = True,
    **settings: Any,
) -> "Scores":
    """Compute loss and metrics of data as one step.

    Args:
        config: A YAML file, or its content.
        per_example: File to write with one JSON line per example.
        progress: True shows it: as a bar, in a notebook as a line. False: nothing is shown. A function is called with
            label, units done, units in all, and figures to show.
        **settings: Overrides of `config`. Model, data and objective must be given in one of the two, and the reference
            if the objective needs one.

    Returns:
        `objective`, `num_examples`, `loss` and `metrics`, as a mapping; `.examples` is a table.
    """
    from tiltlm.config.resolve import draft
    from tiltlm.recipes import run_settings as run
    from tiltlm.storage.files import check_file

    with display(progress) as draw:
        given = draft(run.RunSettings, config, NO_OUTPUT, run.SCORE_READS, **settings)
        rows = None if per_example is None else Path(per_example)
        if rows is not None:
            check_file(rows, "--per-example")
        columns = run.check_inputs(given.settings)
        announce_imports(draw)
        resolved = given.complete()
        objective = resolved.build_objective()
        run.check_scoring(resolved, objective)
        run.check_data(objective, columns)
        from tiltlm.recipes.score import score as recipe

        with quiet_libraries():
            return recipe(resolved, per_example=rows, progress=draw)


@command("model", "data", "objective", "output", "store")
def sweep(
    config: "Config",
    grid: Sequence[str] | Mapping[str, Sequence[Any]],
    /,
    *,
    points: str | Path | Mapping[str, Mapping[str, Any]] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: ProgressCallback | bool | None = True,
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
        progress: True shows it: as a bar, in a notebook as a line. False: nothing is shown. A function is called with
            label, units done, units in all, and figures to show.
        **settings: Overrides of `config`, the same for all runs; `output` is the folder of the sweep.

    Returns:
        The finished sweep; its folder holds `comparison.html` and one folder per run.
    """
    from tiltlm.config.calls.grids import runs_of_grid
    from tiltlm.runs import check_sweep

    with display(progress) as draw:
        runs = runs_of_grid(
            config, grid, points, settings, draw, lambda first: check_sweep(first.output, resume, overwrite)
        )
        from tiltlm.recipes.studies.sweep import SweepPoint
        from tiltlm.recipes.studies.sweep import sweep as recipe

        with quiet_libraries():
            found = [SweepPoint(run.values, run.settings) for run in runs]
            return recipe(found, resume=resume, progress=draw)


@command(positionals={"run": "RUN", "output": "FOLDER"})
def export(
    run: str | Path,
    output: str | Path,
    /,
    *,
    step: int | None = None,
    adapter: bool = False,
    progress: ProgressCallback | bool | None = True,
) -> "Exported":
    """Write a checkpoint of a run as a model folder.

    The folder is what the run itself writes at its end: weights (an adapter is merged), configuration, tokenizer and
    chat template. The run may have ended, may have been stopped, or may go on meanwhile. Checkpoints of any number of
    processes are read by one.

    Args:
        run: Folder of a run of train or loop.
        output: Folder to write; it must not exist.
        step: Step of the checkpoint; without it, the newest one that is intact.
        adapter: Write the adapter alone, which needs its base model, instead of the merged model.
        progress: True shows it: as a bar, in a notebook as a line. False: nothing is shown. A function is called with
            label, units done, units in all, and figures to show.

    Returns:
        `path` of the folder, `step`, and `digest` of the checkpoint.

    Raises:
        TiltError: Something is wrong; the message says what to change. Nothing is written then.
    """
    from tiltlm.config.documents import read_document
    from tiltlm.config.resolve import resolve
    from tiltlm.core import ConfigError
    from tiltlm.recipes.online.loop_run import LoopRunSettings
    from tiltlm.recipes.run_settings import RunSettings

    config = Path(run) / "config.yaml"
    if not config.is_file():
        raise ConfigError(f"{run} is not the folder of a run: it has no config.yaml", code="no_run", key="run")
    content = read_document(config)[0]
    is_loop = "loop" in content
    plain = {key: value for key, value in content.items() if key not in ("judge", "held_out_judge")}
    settings = resolve(LoopRunSettings, plain) if is_loop else resolve(RunSettings, content)
    with display(progress) as draw, quiet_libraries():
        announce_imports(draw)
        from tiltlm.recipes.runs.export import export as recipe

        return recipe(Path(run), settings, Path(output), step=step, adapter=adapter, progress=draw)


@command("model", "objective", argument="data")
def preview(config: "Config" = None, /, *, rows: int = 3, **settings: Any) -> "Previews":
    """Show the first rows as tokens, the scored ones marked.

    Only the tokenizer of the model is loaded.

    Args:
        config: A YAML file, or its content.
        rows: Number of rows.
        **settings: Overrides of `config`. Model and data must be given in one of the two; the objective is `dpo` unless
            it is given.
    """
    from tiltlm.config.resolve import draft
    from tiltlm.recipes import run_settings as run

    given = draft(run.RunSettings, config, {**NO_OUTPUT, "objective": "dpo"}, run.PREVIEW_READS, **settings)
    run.check_preview(given.settings, rows)
    from tiltlm.recipes.preview import preview as recipe

    with quiet_libraries():
        return recipe(given.complete(), rows=rows)
