"""The call that checks data. What is heavy is imported inside the function."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiltlm.config.calls.training import announce_imports
from tiltlm.config.command import command
from tiltlm.recipes.progress import ProgressCallback, display, quiet_libraries

if TYPE_CHECKING:
    from tiltlm.config.resolve import Config
    from tiltlm.recipes.data.checked import CheckedData

__all__ = ["check"]

MARGINS = {"name": "dpo"}
"""The objective of --score: its margin is the implicit reward of the chosen response minus that of the rejected one."""


@command("model", "reference", argument="data")
def check(
    config: "Config" = None,
    /,
    *,
    html: str | Path | None = None,
    json: bool = False,
    fix: str | Path | None = None,
    score: bool = False,
    languages: bool = False,
    overwrite: bool = False,
    progress: ProgressCallback | bool | None = True,
    **settings: Any,
) -> "CheckedData":
    """Find what is wrong with preference data.

    No weights are loaded. Rows that cannot be read, empty and equal responses, duplicates, contradictions, broken
    conversations, leaked prompts, length and style bias: each has a code, a count, rows, the cause and a fix. With a
    model, its tokenizer and chat template are checked too. The exit code is 1 if there is an error.

    Args:
        config: A YAML file, or its content; a run's own configuration serves too.
        html: Page to write: findings, distributions of lengths, and the worst rows in a table that can be sorted.
        json: Print JSON in place of the table.
        fix: File to write: a copy without the rows that have an error, and without exact duplicates. The rows that are
            left out go to a file beside it, with the reason. The input is never changed.
        score: Score the pairs with the model and a reference too: labels that are probably wrong, and an estimate of
            their rate.
        languages: Find the language of prompts and responses too; it is slow, and needs the extra `languages`.
        overwrite: Replace the files of --fix.
        progress: True shows it: as a bar, in a notebook as a line. False: nothing is shown. A function is called with
            label, units done, units in all, and figures to show.
        **settings: Overrides of `config`. The data must be given in one of the two. data.eval names evaluation data,
            with which the training data should share no prompt.

    Returns:
        The findings, with `to_pandas()`, `to_dict()` and `exit_code`.

    Raises:
        TiltError: The data cannot be opened, or a setting cannot work. What is wrong inside the data is a finding.
    """
    from tiltlm.config.resolve import draft
    from tiltlm.recipes import run_settings as run
    from tiltlm.recipes.data.check import CHECK_READS, NO_MODEL, SCORE_READS, CheckRequest, check_settings
    from tiltlm.recipes.data.check import check as recipe

    request = CheckRequest(
        html=None if html is None else Path(html),
        fix=None if fix is None else Path(fix),
        scores=score,
        languages=languages,
        prints_json=json,
        overwrite=overwrite,
    )
    defaults = {"output": ".", "objective": "dpo", "model": {"path": NO_MODEL}}
    given = draft(run.RunSettings, config, defaults, SCORE_READS if score else CHECK_READS, **settings)
    with display(progress) as draw:
        check_settings(given.settings, request)
        if not score:
            return recipe(given.settings, request, progress=draw)
        announce_imports(draw)
        resolved = replace(given.settings, objective=MARGINS)
        run.check_scoring(resolved, resolved.build_objective())
        with quiet_libraries():
            return recipe(resolved, request, progress=draw)
