"""The sweep recipe: a grid of runs with one reference store, and one page that compares them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiltlm.core import NumericsError, RunError
from tiltlm.distributed import Ranks
from tiltlm.recipes.progress import ProgressCallback, silent
from tiltlm.recipes.run_settings import RunSettings
from tiltlm.recipes.train import train
from tiltlm.report import ComparedRun, read_run, verdict_of, write_comparison
from tiltlm.report.comparison.page import headline, render_comparison
from tiltlm.report.comparison.points import points_of, table_of
from tiltlm.report.page import in_frame
from tiltlm.runs import RunDirectory
from tiltlm.training.guards import Interrupted

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SweepPoint:
    """One run of the grid."""

    values: Mapping[str, Any]
    """The values of the grid's keys in this run."""
    settings: RunSettings
    """All settings of this run; `output` is the folder of the sweep."""


@dataclass(frozen=True, repr=False)
class Sweep:
    """A finished sweep. pandas is imported only for the table."""

    path: Path
    """The folder with `comparison.html`, `comparison.json` and a folder for each run."""
    runs: tuple[ComparedRun, ...]
    """In the order of the grid."""

    @property
    def exit_code(self) -> int:
        """0; 1 if a run failed."""
        return int(any(run.report is None for run in self.runs))

    def __repr__(self) -> str:
        return (
            f"Sweep: {len(self.runs)} runs at {len(points_of(self.runs))} points\n"
            f"  {headline(self.runs).sentence}\n"
            f"  comparison.html and the runs in {self.path}"
        )

    def _repr_html_(self) -> str:
        """Return the comparison for a notebook. Its links to the pages of the runs would lead nowhere there."""
        runs = [replace(run, link="") for run in self.runs]
        return in_frame(render_comparison("Comparison of runs", runs, headline(runs), {}, ()))

    def to_pandas(self) -> "pd.DataFrame":
        """Return one row per point: its settings, and each number with the ends of its 95 % interval.

        The interval is over prompts; over seeds (Student's) where a point has several.
        """
        import pandas as pd

        return pd.DataFrame(table_of(self.runs))

    def summary(self) -> str:
        """Return what the command line prints at the end."""
        lines = [f"{run.name}  {verdict_of(run.report).sentence if run.report else run.error}" for run in self.runs]
        if self.exit_code:
            lines.append("Runs without a report have failed; the same command with --resume tries them again.")
        return "\n".join([*lines, f"comparison  {self.path / 'comparison.html'}"])


def run_name(index: int, values: Mapping[str, Any]) -> str:
    """Return the folder name of a run, made of its values: `02-beta=0.1-learning_rate=0.001`."""
    text = "-".join(f"{key.split('.')[-1]}={value}" for key, value in values.items())
    clean = "".join(c if c.isascii() and (c.isalnum() or c in "=.-_+") else "_" for c in text)
    return f"{index:02d}-{clean}"[:120]


def sweep(points: Sequence[SweepPoint], *, resume: bool = False, progress: ProgressCallback = silent) -> Sweep:
    """Train at every point, one after another, and compare the runs.

    The runs share the reference store: each reads what an earlier one computed.

    Args:
        points: The grid; all points have the same `output`, and their settings have been checked
            (`recipes.run_settings`).
        resume: Keep runs that have a report and continue the others; else runs in the folder are deleted.
        progress: Called with the progress of the current run.

    Raises:
        ConfigError: a launcher started several processes.
    """
    Ranks.single("sweep")
    folder = points[0].settings.output
    runs = []
    for index, point in enumerate(points):
        name = run_name(index, point.values)
        log.info("%s: run %d of %d", name, index + 1, len(points))
        runs.append(run_point(name, replace(point.settings, output=folder / name), point.values, resume, progress))
        write_comparison(folder, runs)  # after each run, so that one can look at the finished ones
    return Sweep(folder, tuple(runs))


def run_point(
    name: str, settings: RunSettings, values: Mapping[str, Any], resume: bool, progress: ProgressCallback
) -> ComparedRun:
    """Train at one point. A run that fails is logged, and the sweep continues with the next one."""
    path = settings.output
    link = f"{name}/report.html"
    if resume and (path / "report.json").exists():
        log.info("%s: already complete", name)
        return ComparedRun(name, values, read_run(path), link)
    has_begun = (path / RunDirectory.MARKER).exists()  # a kill may come before
    try:
        goes_on, replaces = resume and has_begun, has_begun and not resume
        report = train(settings, resume=goes_on, overwrite=replaces, progress=progress).report
    except Interrupted:
        raise
    except (RunError, NumericsError) as error:
        log.error("%s: %s", name, error)
        return ComparedRun(name, values, None, error=str(error))
    return ComparedRun(name, values, report, link)
