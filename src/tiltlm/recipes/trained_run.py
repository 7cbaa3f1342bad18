"""A finished run, as a notebook looks at it: verdict, tables, curves. pandas is imported only for the tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from tiltlm.core import RunError
from tiltlm.objectives import compose
from tiltlm.objectives.terms import reads_scores
from tiltlm.recipes.runs.publishing import Published
from tiltlm.report import RunReport, read_run, series_of, verdict_of, write_report
from tiltlm.report.comparison.again import compare_again
from tiltlm.report.comparison.page import TWIN as COMPARISON
from tiltlm.report.comparison.points import numbers
from tiltlm.report.page import in_frame, render
from tiltlm.runs import RunDirectory
from tiltlm.training import TrainingResult

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

CURVES = {
    "loss": "loss",
    "nll": "negative log-likelihood, nats per token",
    "rewards/margins": "reward margin",
    "rewards/accuracies": "ranking accuracy",
}
"""Metrics that `plot` draws if they were measured, and their titles."""


@dataclass(frozen=True, repr=False)
class TrainedRun:
    """A finished run."""

    path: Path
    """The run directory: `model/` is the trained policy, `report.html` the report."""
    training: TrainingResult
    report: RunReport
    """The numbers of `report.html`; `report.json` holds the same."""
    held_out: Sequence[Mapping[str, Any]] = ()
    """The rows of `examples`."""
    published: Published | None = None
    """Where the run was uploaded to, or why that failed; None if it was not asked for."""

    @property
    def exit_code(self) -> int:
        """0; 1 if the run was to be uploaded and that failed. The run itself is finished in any case."""
        return 0 if self.published is None else self.published.exit_code

    def __repr__(self) -> str:
        steps, rate = self.training.num_steps, self.training.learning_rate
        return (
            f"TrainedRun: {self.report.title}\n"
            f"  {self.verdict}\n"
            f"  {steps} steps, peak learning rate {rate:g}; model/ and report.html in {self.path}"
        )

    def _repr_html_(self) -> str:
        """Return the report for a notebook: verdict, pictures and tables."""
        return in_frame(render(self.report))

    @property
    def verdict(self) -> str:
        """One sentence that says whether training helped."""
        return verdict_of(self.report).sentence

    @property
    def metrics(self) -> pd.DataFrame:
        """The records of metrics.jsonl, one row each; held-out metrics begin with `eval_`."""
        import pandas as pd

        return pd.DataFrame(self.training.history)

    @property
    def examples(self) -> pd.DataFrame:
        """One row per response of a held-out example: its texts, and its values before and after training.

        `logps` are nats, summed over the response; `reward` is the objective's.
        """
        import pandas as pd

        return pd.DataFrame(self.held_out)

    @property
    def samples(self) -> pd.DataFrame:
        """The samples of the report, one row per prompt and sample, from the untrained and the trained policy."""
        import pandas as pd

        rows = []
        for text in self.report.samples.texts if self.report.samples is not None else ():
            columns = {"before": text.before, "after": text.after}
            gold = {"gold_before": text.gold_before, "gold_after": text.gold_after}
            columns |= {name: values for name, values in gold.items() if values is not None}  # type: ignore[misc]
            listed = zip(*columns.values(), strict=True)
            rows += [{"prompt": text.prompt, **dict(zip(columns, values, strict=True))} for values in listed]
        return pd.DataFrame(rows)

    def to_pandas(self) -> pd.DataFrame:
        """Return the numbers of the trained policy with the ends of their 95 % intervals, one row each."""
        import pandas as pd

        rows = {
            key: {"estimate": found.estimate, "low": found.low, "high": found.high, "n": found.n}
            for key, found in numbers(self.report).items()
        }
        return pd.DataFrame.from_dict(rows, orient="index", columns=["estimate", "low", "high", "n"])

    def plot(self) -> Figure:
        """Draw loss, margins and accuracies over the steps: batches as a pale line, held-out data as dots."""
        import matplotlib.pyplot as plt

        found = {(series.name, series.part): series for series in series_of(self.training.history)}
        names = [name for name in CURVES if any(key[0] == name for key in found)]
        figure, grid = plt.subplots(1, len(names), figsize=(3.6 * len(names), 2.8), squeeze=False, layout="constrained")
        plt.close(figure)  # a notebook shows the returned figure; an open one would appear twice
        for axes, name in zip(grid[0], names, strict=True):
            if batches := found.get((name, "train")):
                axes.plot(batches.steps, batches.values, color="C0", alpha=0.4, label="training batches")
            if held_out := found.get((name, "held_out")):
                axes.plot(held_out.steps, held_out.values, "o-", color="C1", markersize=4, label="held out")
            axes.set_title(CURVES[name])
            axes.set_xlabel("step")
            axes.spines[["top", "right"]].set_visible(False)
        if names:
            grid[0][0].legend(frameon=False)
        return figure

    def summary(self) -> str:
        """Return what the command line prints at the end: the verdict, and what to do next."""
        verdict = verdict_of(self.report)
        lines = [f"{verdict.question} {verdict.word}", verdict.sentence]
        lines += [*(f"- {caution.text}" for caution in verdict.cautions), ""]
        lines += [f"report  {self.path / 'report.html'}  (open it in a browser)", f"model   {self.path / 'model'}"]
        if not reads_scores(compose(self.report.config["objective"])):  # a reward model does not answer
            lines.append(f"try it  {self._chat_command()}")
        if self.published is not None:
            lines.append(self.published.summary())
            if self.published.error:
                lines.append(f"again   tiltlm push {quote(str(self.path))} {self.published.name}")
        return "\n".join(lines)

    def _chat_command(self) -> str:
        """Return the command that tries the trained model, beside the untrained one if that is a plain folder."""
        command = f"tiltlm chat {quote(str(self.path / 'model'))}"
        model = self.report.config["model"]
        if model["adapter"] is None and model["revision"] is None:
            command += f" --beside {quote(model['path'])}"
        return command


def report_again(folder: Path) -> Path:
    """Write report.html of a run or comparison.html of a sweep again, as this version of tiltlm writes it.

    Args:
        folder: The run directory, or the folder of a sweep.

    Returns:
        The path of the page.

    Raises:
        RunError: The folder is neither, or the run has not ended, so that its measurements are missing.
    """
    if (folder / COMPARISON).exists():
        return compare_again(folder)
    if not (folder / RunDirectory.MARKER).exists():
        raise RunError(
            f"{folder}: this is no run directory, which has {RunDirectory.MARKER}, and no folder of a sweep, which "
            f"has {COMPARISON}",
            code="no_run",
            key="RUN",
        )
    if not (folder / "report.json").exists():
        raise RunError(
            f"{folder}: report.json is missing, which holds the measurements after training; {_progress_of(folder)}. "
            f"Finish the run (tiltlm train {folder / 'config.yaml'} --resume); the report is made at its end",
            code="no_report",
            key="RUN",
        )
    return write_report(folder, read_run(folder))


def _progress_of(folder: Path) -> str:
    """Return how far a run has come, from its last record."""
    path = folder / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    steps = [json.loads(line).get("step", 0) for line in lines if line.endswith("}")]
    return f"its last record is of step {max(steps)}" if steps else "it has no record of any step"
