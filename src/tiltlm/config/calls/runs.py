"""The calls for runs that are there: a list, two of them side by side, and one on the hub. They change no run."""

from pathlib import Path
from typing import TYPE_CHECKING

from tiltlm.config.command import command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tiltlm.recipes.runs.difference import RunDifference
    from tiltlm.recipes.runs.listing import RunList
    from tiltlm.recipes.runs.publishing import Published

__all__ = ["push", "runs_diff", "runs_list"]


@command(group="runs", arguments="folders", has_bar=False)
def runs_list(
    folders: "str | Path | Sequence[str | Path]" = ".",
    /,
    *,
    state: "str | Sequence[str] | None" = None,
    kind: "str | Sequence[str] | None" = None,
    objective: "str | Sequence[str] | None" = None,
    sort: str = "changed",
    reverse: bool = False,
    json: bool = False,
) -> "RunList":
    """List runs with their states and results.

    Runs are found in and below the folders: training runs, loops, and studies such as sweeps. A state is one of
    running, finished, stopped (by a signal or a kill; it can be continued), failed (with its error) and damaged.
    Nothing is written and no lock is taken, so runs that are in progress are not disturbed.

    Args:
        folders: Folders to search. Without any, the present folder.
        state: Only runs in these states, separated by commas, such as failed,stopped.
        kind: Only runs of these kinds, separated by commas: train, loop, sweep, frontier, methods.
        objective: Only runs with one of these objectives, separated by commas.
        sort: Order: changed, created, path, state, objective, steps, accuracy, kl or reward.
        reverse: Turn the order round.
        json: Print JSON in place of the table.

    Returns:
        The runs, as a sequence with `to_pandas()` and `to_dict()`.

    Raises:
        ConfigError: A folder does not exist, or a state, a kind or an order is unknown.
    """
    from tiltlm.recipes.runs.listing import list_runs

    given = [folders] if isinstance(folders, str | Path) else list(folders)
    return list_runs(
        [Path(folder) for folder in given or ["."]],
        states=_words(state),
        kinds=_words(kind),
        objectives=_words(objective),
        sort=sort,
        reverse=reverse,
        prints_json=json,
    )


@command(group="runs", positionals={"a": "A", "b": "B"}, has_bar=False)
def runs_diff(a: str | Path, b: str | Path, *, html: str | Path | None = None, json: bool = False) -> "RunDifference":
    """Compare two runs: settings, versions, inputs, data, results, curves.

    Only what differs is shown. Results have intervals, and accuracies on the same prompts are compared prompt by
    prompt. A run that has not finished is compared as far as it goes.

    Args:
        a: A run directory.
        b: Another one.
        html: Page to write: the same, and the curves of both runs on the same axes.
        json: Print JSON in place of text.

    Returns:
        The differences, with `to_pandas()` for the results and `to_dict()`.

    Raises:
        ConfigError: One of the folders is no run.
    """
    from tiltlm.recipes.runs.difference import compare_runs
    from tiltlm.storage.files import check_file

    page = None if html is None else Path(html)
    if page is not None:
        check_file(page, "--html")
    return compare_runs(Path(a), Path(b), html=page, prints_json=json)


@command(positionals={"run": "RUN", "name": "NAME"}, has_bar=False)
def push(run: str | Path, name: str, *, public: bool = False, without_report: bool = False) -> "Published":
    """Upload a finished run to the Hugging Face Hub.

    Model, card and report go into one commit. The report shows prompts and responses of the data, and names of files.

    Args:
        run: A run directory.
        name: Repository: NAME, which belongs to the user of the token, or OWNER/NAME. A new one is private.
        public: Make a new repository public. One that exists keeps its visibility.
        without_report: Upload the model and its card only.

    Returns:
        Where the run is now: `url`, `files`, `is_private`.

    Raises:
        ConfigError: The run has not finished, or the token may not write there.
        RunError: The upload failed. Nothing of the run is changed, so it can be repeated.
    """
    from tiltlm.recipes.runs.publishing import publish

    return publish(Path(run), name, public=public, with_report=not without_report)


def _words(value: "str | Sequence[str] | None") -> list[str]:
    """Return words that are separated by commas, or that are a list already."""
    if value is None:
        return []
    return [word.strip() for word in value.split(",")] if isinstance(value, str) else list(value)
