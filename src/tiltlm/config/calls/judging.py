"""The call that judges data. What is heavy is imported inside the function."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiltlm.config.command import command
from tiltlm.recipes.progress import ProgressCallback, display, quiet_libraries

if TYPE_CHECKING:
    from tiltlm.config.resolve import Config
    from tiltlm.recipes.answers.judged import Estimate, Judged

__all__ = ["judge"]


@command("judge", argument="data")
def judge(
    config: "Config" = None,
    /,
    *,
    output: str | Path | None = None,
    role: str = "train",
    comparisons: str | None = None,
    seed: int = 0,
    dry_run: bool = False,
    max_calls: int | None = None,
    max_cost: float | None = None,
    accept_errors: bool = False,
    unaudited: bool = False,
    overwrite: bool = False,
    progress: ProgressCallback | bool | None = True,
    **settings: Any,
) -> "Judged | Estimate":
    """Add scores or preferences of a judge to a data file.

    Lists get `scores` or `comparisons`, pairs `preference` or `score_chosen` and `score_rejected`; training reads the
    file as it is. Judgements are stored, so none is made twice: a call that was stopped goes on when it is repeated.

    Args:
        config: A YAML file, or its content.
        output: File to write: .jsonl, .jsonl.gz, .jsonl.zst or .parquet. Rows that the judge could not decide go to a
            file beside it.
        role: train for data to train on, held_out for a judge that only measures.
        comparisons: Pairs of each list to compare: all, random:K or best_worst. A judge that scores compares by its
            scores then.
        seed: Seed of random pairs.
        dry_run: Only say how many calls it would take and what they cost.
        max_calls: Stop before a call beyond this number. Repeat the command to go on.
        max_cost: Stop when this is spent, in the currency of the price file.
        accept_errors: Write the file although more than 5 % of the judgements failed.
        unaudited: Make training data with a judge that has no audit.
        overwrite: Replace the output file.
        progress: True shows it: as a bar, in a notebook as a line. False: nothing is shown. A function is called with
            label, units done, units in all, and figures to show.
        **settings: Overrides of `config`: sections data and judge. Both must be given in one of the two.

    Returns:
        The judged rows, with `counts` and `to_pandas()`; with `dry_run` the estimate.

    Raises:
        TiltError: Something is wrong; the message says what to change. What was judged is kept.
    """
    from tiltlm.config.judges import judge_section
    from tiltlm.config.resolve import resolve
    from tiltlm.recipes.answers.judge import JUDGE_READS, JudgeRequest, JudgingSettings
    from tiltlm.recipes.answers.judge import judge as recipe
    from tiltlm.recipes.answers.judged import Pairing

    if "judge" in settings:
        settings["judge"] = judge_section(settings["judge"])
    request = JudgeRequest(
        output=None if output is None else Path(output),
        role=role,  # type: ignore[arg-type]
        comparisons=None if comparisons is None else Pairing.of(comparisons),
        seed=seed,
        max_calls=max_calls,
        max_cost=max_cost,
        accept_errors=accept_errors,
        unaudited=unaudited,
        overwrite=overwrite,
    )
    resolved = resolve(JudgingSettings, config, {}, JUDGE_READS, **settings)
    with display(progress) as draw, quiet_libraries():
        return recipe(resolved, request, dry_run=dry_run, progress=draw)
