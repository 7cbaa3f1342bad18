"""The commands as Python calls: `tiltlm.train(...)` and its kin. The command line is a thin skin over these.

Settings are given as a configuration file (or its content) and keyword arguments, which go before it: sections
(`model="path"`), dotted keys (`**{"training.seed": 1}`) or bare keys that only one section has (`beta=0.2`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tiltlm.config.documents import parse_value
from tiltlm.config.resolve import parse_overrides, resolve
from tiltlm.core import ConfigError
from tiltlm.data import Preview
from tiltlm.objectives import resolve_name
from tiltlm.recipes import catalogue
from tiltlm.recipes.preview import preview as preview_recipe
from tiltlm.recipes.progress import ProgressCallback, silent
from tiltlm.recipes.quickstart import quickstart as quickstart_recipe
from tiltlm.recipes.score import score as score_recipe
from tiltlm.recipes.sweep import Sweep, SweepPoint, combinations
from tiltlm.recipes.sweep import sweep as sweep_recipe
from tiltlm.recipes.train import TrainedRun
from tiltlm.recipes.train import train as train_recipe

UNUSED = {"output": "."}
"""Commands that write no run have no output folder."""

Config = str | Path | Mapping[str, Any] | None


def train(
    config: Config = None,
    /,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: ProgressCallback = silent,
    **settings: Any,
) -> TrainedRun:
    """Train a policy from preferences and report whether it helped.

    Args:
        config: a YAML file, or its content.
        resume: go on with the run in `output`.
        overwrite: delete the run in `output` and start again.
        progress: told how far it is.
        settings: what goes before `config`: at least model, data, objective and output must be named somewhere.

    Raises:
        TiltError: something is wrong; before the first step, nothing has been written.
    """
    return train_recipe(resolve(config, **settings), resume=resume, overwrite=overwrite, progress=progress)


def score(
    config: Config = None,
    /,
    *,
    per_example: str | Path | None = None,
    progress: ProgressCallback = silent,
    **settings: Any,
) -> dict[str, Any]:
    """Loss and metrics of the whole data as one step: `objective`, `num_examples`, `loss`, `metrics`.

    Args:
        config: a YAML file, or its content.
        per_example: a JSON Lines file to write, a line per example.
        progress: told how far it is.
        settings: what goes before `config`: at least model, data and objective, and the reference where one is needed.
    """
    resolved = resolve(config, UNUSED, **settings)
    return score_recipe(resolved, per_example=None if per_example is None else Path(per_example), progress=progress)


def sweep(
    config: Config,
    grid: Sequence[str] | Mapping[str, Sequence[Any]],
    /,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: ProgressCallback = silent,
    **settings: Any,
) -> Sweep:
    """Runs over a grid of settings and one reference store; ends in one comparison page.

    Args:
        config: a YAML file, or its content; None where `settings` say it all.
        grid: values of each key, as a mapping or as `key=v1,v2,...`; all combinations are run. A key with a single
            value is a setting like any other.
        resume: keep the runs that are complete and do the others.
        overwrite: delete the runs in `output` and start again.
        progress: told how far it is.
        settings: what goes before `config`, the same for all runs; `output` is the folder of the sweep.
    """
    values = grid if isinstance(grid, Mapping) else parse_grid(grid)
    fixed = {**settings, **{key: vs[0] for key, vs in values.items() if len(vs) == 1}}
    varied = {key: list(vs) for key, vs in values.items() if len(vs) > 1}
    if not varied:
        raise ConfigError(
            "nothing varies; give a key several values, such as objective.beta=0.05,0.1,0.5",
            code="nothing_varies",
            key="grid",
        )
    points = []
    for point in combinations(varied):
        points.append(SweepPoint(point, resolve(config, **fixed, **point)))
    return sweep_recipe(points, resume=resume, overwrite=overwrite, progress=progress)


def parse_grid(pairs: Sequence[str]) -> dict[str, list[Any]]:
    """`key=v1,v2,...` arguments; a bracketed value, [a, b], is one value that is a list."""
    grid = {}
    for pair in pairs:
        (key,) = parse_overrides([pair])
        text = pair.partition("=")[2]
        grid[key] = [parse_value(text)] if text.startswith(("[", "{")) else [parse_value(v) for v in text.split(",")]
    return grid


def preview(config: Config = None, /, *, rows: int = 3, **settings: Any) -> list[Preview]:
    """The first rows as tokens with what is scored; only the tokenizer of the model is loaded.

    Args:
        config: a YAML file, or its content.
        rows: how many rows.
        settings: what goes before `config`: at least model and data.
    """
    return preview_recipe(resolve(config, {**UNUSED, "objective": "dpo"}, **settings), rows=rows)


def objectives(name: str | None = None) -> str:
    """The catalogue of methods as text, or one of them in full."""
    if name is None:
        return catalogue.overview()
    known = resolve_name(name)
    return "\n\n".join([*known.notes, catalogue.describe_method(known.name)])


def quickstart(
    *,
    output: str | Path = "quickstart-run",
    overwrite: bool = False,
    seed: int = 0,
    progress: ProgressCallback = silent,
) -> TrainedRun:
    """A complete small alignment run, offline; ends in a report.

    Args:
        output: folder of the run.
        overwrite: delete the run that is there and start again.
        seed: of the samples, the labels and the order of training.
        progress: told how far it is.
    """
    return quickstart_recipe(Path(output), overwrite=overwrite, seed=seed, progress=progress)
