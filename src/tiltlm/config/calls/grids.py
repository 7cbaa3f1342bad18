"""The runs of a grid: settings of each, resolved and checked before anything is loaded."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiltlm.recipes.progress import ProgressCallback

if TYPE_CHECKING:
    from tiltlm.config.resolve import Config
    from tiltlm.recipes.run_settings import RunSettings

Grid = Sequence[str] | Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class GridRun:
    """One run of a grid."""

    values: Mapping[str, Any]
    """The values of the keys that vary."""
    overrides: Mapping[str, Any]
    """All overrides of the configuration."""
    settings: "RunSettings"


def runs_of_grid(
    config: "Config",
    grid: Grid,
    points: str | Path | Mapping[str, Mapping[str, Any]] | None,
    settings: Mapping[str, Any],
    draw: ProgressCallback,
    check: Callable[["RunSettings"], None],
    *,
    allows_one: bool = False,
) -> list[GridRun]:
    """Return the runs of a grid, with everything checked that can be checked without a model.

    Args:
        config: A YAML file, or its content.
        grid: Values of each key.
        points: Named points, each with settings of its own.
        settings: Overrides of all runs.
        draw: Shows progress.
        check: Checks the folders of the command; called with the settings of the first run, before the slow imports.
        allows_one: Accept a grid in which nothing varies.

    Raises:
        TiltError: something is wrong in the settings or the data of a run.
    """
    from tiltlm.config.calls.training import announce_imports
    from tiltlm.config.in_memory import plain
    from tiltlm.config.resolve import draft, points_of
    from tiltlm.config.schema import Schema
    from tiltlm.recipes import run_settings as run

    config, settings = plain(config), plain(settings)  # objects are written here, once and not for each run
    given = [
        (values, overrides, draft(run.RunSettings, config, **overrides))
        for values, overrides in points_of(Schema(run.RunSettings), grid, points, settings, allows_one=allows_one)
    ]
    check(given[0][2].settings)
    columns = run.check_sweep_inputs([found.settings for _, _, found in given])
    announce_imports(draw)
    resolved = [GridRun(values, overrides, found.complete()) for values, overrides, found in given]
    for made, read in zip(resolved, columns, strict=True):
        objective = made.settings.build_objective()
        run.check_training(made.settings, objective)
        run.check_data(objective, read)
    return resolved
