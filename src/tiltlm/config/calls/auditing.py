"""The call that audits a judge. What is heavy is imported inside the function."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiltlm.config.command import command
from tiltlm.recipes.progress import ProgressCallback, display, quiet_libraries

if TYPE_CHECKING:
    from tiltlm.config.resolve import Config
    from tiltlm.recipes.answers.audited import AuditedJudge

__all__ = ["judge_audit"]


@command("judge", argument="data")
def judge_audit(
    config: "Config" = None,
    /,
    *,
    output: str | Path = "audit.json",
    canaries: int = 50,
    retest: int = 50,
    max_calls: int | None = None,
    max_cost: float | None = None,
    markdown: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    progress: ProgressCallback | bool | None = True,
    **settings: Any,
) -> "AuditedJudge":
    """Measure a judge on pairs that people have labelled.

    Agreement beyond chance, flips when the order changes, preference for a position, for length and for lists, what
    responses that ask for a good verdict gain, and the calibration that other commands read with judge.audit=FILE.

    Args:
        config: A YAML file, or its content.
        output: JSON file to write; a page with the same numbers goes beside it.
        canaries: Pairs that are judged once more with a worse response that asks for a good verdict.
        retest: Pairs that a judge which may change its mind is asked about once more.
        max_calls: Stop before a call beyond this number. Repeat the command to go on.
        max_cost: Stop when this is spent, in the currency of the price file.
        markdown: Write a Markdown file beside it too, a summary for a pull request or a model card.
        seed: Seed of the intervals, and of which pairs are attacked and repeated.
        overwrite: Replace the output file.
        progress: True shows it: as a bar, in a notebook as a line. False: nothing is shown. A function is called with
            label, units done, units in all, and figures to show.
        **settings: Overrides of `config`: sections data and judge. Both must be given in one of the two.

    Returns:
        The audit: `audit`, `scale`, `to_pandas()`, and `path` of the file.

    Raises:
        TiltError: Something is wrong; the message says what to change. What was judged is kept.
    """
    from tiltlm.config.judges import judge_section
    from tiltlm.config.resolve import resolve
    from tiltlm.recipes.answers.judge_audit import AUDIT_READS, AuditRequest, AuditSettings
    from tiltlm.recipes.answers.judge_audit import judge_audit as recipe

    if "judge" in settings:
        settings["judge"] = judge_section(settings["judge"])
    request = AuditRequest(
        output=Path(output),
        canaries=canaries,
        retest=retest,
        max_calls=max_calls,
        max_cost=max_cost,
        markdown=markdown,
        seed=seed,
        overwrite=overwrite,
    )
    resolved = resolve(AuditSettings, config, {}, AUDIT_READS, **settings)
    with display(progress) as draw, quiet_libraries():
        return recipe(resolved, request, progress=draw)
