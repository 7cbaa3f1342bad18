"""A grid of runs over one reference store, and one page to compare them."""

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tiltlm.core import ConfigError, NumericsError, RunError
from tiltlm.distributed import Ranks
from tiltlm.recipes.progress import ProgressCallback, silent
from tiltlm.recipes.run_settings import RunSettings
from tiltlm.recipes.train import train
from tiltlm.report import ComparedRun, read_run, verdict_of, write_comparison
from tiltlm.training import Interrupted

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SweepPoint:
    """One run of the grid."""

    values: Mapping[str, Any]
    """What it has that the others have not."""
    settings: RunSettings
    """Its settings; `output` is the folder of the sweep."""


@dataclass(frozen=True)
class Sweep:
    """A finished sweep."""

    path: Path
    """`comparison.html`, `comparison.json` and a folder a run."""
    runs: tuple[ComparedRun, ...]
    """In the order of the grid."""

    def summary(self) -> str:
        """What a terminal shows at the end."""
        lines = [f"{run.name}  {verdict_of(run.report).sentence if run.report else run.error}" for run in self.runs]
        return "\n".join([*lines, f"comparison  {self.path / 'comparison.html'}"])


def combinations(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of the grid's values, the last key varying fastest."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def run_name(index: int, values: Mapping[str, Any]) -> str:
    """A folder name that says what is special about a run: `02-beta=0.1-learning_rate=0.001`."""
    said = "-".join(f"{key.split('.')[-1]}={value}" for key, value in values.items())
    clean = "".join(c if c.isalnum() or c in "=.-_+" else "_" for c in said)
    return f"{index:02d}-{clean}"[:120]


def sweep(
    points: Sequence[SweepPoint], *, resume: bool = False, overwrite: bool = False, progress: ProgressCallback = silent
) -> Sweep:
    """Train at every point, one after another, and compare.

    The runs share the reference store, so what one has computed the next one reads.

    Args:
        points: the grid; all have the same `output`.
        resume: keep runs that have a report, go on with those that have not.
        overwrite: delete the runs that are there.
        progress: told how far the current run is.

    Raises:
        ConfigError: the folder holds runs and neither was asked for; or a launcher started several processes.
    """
    Ranks.single("sweep")
    folder = points[0].settings.output
    if folder.exists() and any(folder.iterdir()) and not (resume or overwrite):
        raise ConfigError(
            f"{folder} is not empty; go on with the sweep there (--resume), do it again (--overwrite), or name another",
            code="not_empty",
            key="output",
        )
    runs = []
    for index, point in enumerate(points):
        name = run_name(index, point.values)
        log.info("%s: run %d of %d", name, index + 1, len(points))
        runs.append(run_point(name, replace(point.settings, output=folder / name), point.values, resume, progress))
        write_comparison(folder, runs)  # after each: what is done can be looked at
    return Sweep(folder, tuple(runs))


def run_point(
    name: str, settings: RunSettings, values: Mapping[str, Any], resume: bool, progress: ProgressCallback
) -> ComparedRun:
    """Train at one point; a run that fails by its numbers is told of, and the others go on."""
    path = settings.output
    link = f"{name}/report.html"
    if resume and (path / "report.json").exists():
        log.info("%s: complete, kept", name)
        return ComparedRun(name, values, read_run(path), link)
    begun = path.exists()
    try:
        report = train(settings, resume=resume and begun, overwrite=begun and not resume, progress=progress).report
    except Interrupted:
        raise
    except (RunError, NumericsError) as error:
        log.error("%s: %s", name, error)
        return ComparedRun(name, values, None, error=str(error))
    return ComparedRun(name, values, report, link)
