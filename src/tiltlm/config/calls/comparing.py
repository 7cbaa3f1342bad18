"""The call that compares systems. What is heavy is imported inside the function."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiltlm.config.command import command
from tiltlm.recipes.progress import ProgressCallback, display, quiet_libraries

if TYPE_CHECKING:
    from tiltlm.diagnostics.comparing.planning import Plan
    from tiltlm.recipes.answers.compare import ComparedSystems

__all__ = ["compare"]


@command(arguments="systems")
def compare(
    systems: Sequence[str | Path] = (),
    /,
    *,
    prompts: str | Path | None = None,
    judge: Any = None,
    baseline: str | None = None,
    n: int = 1,
    temperatures: str | float | Sequence[float] = 1.0,
    max_new_tokens: int = 256,
    limit: int | None = None,
    output: str | Path = "comparison",
    export: str | Sequence[str] | None = None,
    markdown: bool = False,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    plan: bool = False,
    detect: float | None = None,
    ties: float | None = None,
    price: float | None = None,
    progress: ProgressCallback | bool | None = True,
) -> "ComparedSystems | Plan":
    """Compare the answers of two and more systems by a judge.

    Win rates with intervals, at equal length too, strengths of three and more systems, and what else differs between
    the answers.

    Args:
        systems: Model folders, runs, names on the Hugging Face Hub, or files of answers (ours, AlpacaEval's,
            Arena-Hard's); write NAME=PATH to give one a name.
        prompts: Data of any shape whose prompts are answered by the systems that are models.
        judge: What judges: KIND:ARGUMENT, such as reward_model:FOLDER or gold, or a YAML file with its settings.
        baseline: Name of the system that the others are compared with; without it, all pairs are compared.
        n: Answers of each model to each prompt.
        temperatures: Temperatures of the models, such as 0,0.5,1; 0 takes the most probable token.
        max_new_tokens: An answer that has not ended is cut after this many tokens.
        limit: Most prompts.
        output: Folder of the results; it must be new or empty.
        export: Formats to write answers and judgements in, too: alpaca_eval, arena_hard.
        markdown: Write compare.md too, a summary for a pull request or a model card.
        seed: Seed of answers and intervals.
        resume: Use the answers that are in the output folder; judgements are never made twice in any case.
        overwrite: Draw the answers again.
        plan: Compare nothing; show how many prompts a comparison needs, and what the judge will cost.
        detect: With --plan, the distance of the win rate from one half that should be found (default 0.05).
        ties: With --plan, the expected share of ties (default 0).
        price: With --plan, the price of one call of the judge.
        progress: True shows it: as a bar, in a notebook as a line. False: nothing is shown. A function is called with
            label, units done, units in all, and figures to show.

    Returns:
        The comparison: `comparison`, `to_pandas()`, and `path` of the folder with compare.html. With `plan`, the plan.

    Raises:
        TiltError: Something is wrong; the message says what to change.
    """
    from tiltlm.core import ConfigError
    from tiltlm.recipes.answers.compare import ComparisonRequest
    from tiltlm.recipes.answers.compare import compare as recipe

    if plan:
        from tiltlm.diagnostics.comparing.planning import Plan

        given = {"prompts": prompts, "judge": judge, "baseline": baseline, "limit": limit, "export": export}
        given |= {"markdown": markdown, "resume": resume, "overwrite": overwrite}
        for name, value in given.items():
            if value:
                raise ConfigError(f"{name} has no effect on a plan; remove it", code="no_effect", key=name)
        return Plan(0.05 if detect is None else detect, ties or 0.0, 0.8, max(2, len(systems)), n, price)
    for name, value in (("detect", detect), ("ties", ties), ("price", price)):
        if value is not None:
            raise ConfigError(
                f"{name} has no effect without plan; add --plan, or remove it", code="no_effect", key=name
            )
    request = ComparisonRequest(
        systems=tuple(map(str, systems)),
        prompts=None if prompts is None else str(prompts),
        judge=judge_of(judge),
        output=Path(output),
        baseline=baseline,
        n=n,
        temperatures=numbers(temperatures),
        max_new_tokens=max_new_tokens,
        limit=limit,
        seed=seed,
        export=tuple(export.split(",") if isinstance(export, str) else export or ()),
        markdown=markdown,
        resume=resume,
        overwrite=overwrite,
    )
    with display(progress) as draw, quiet_libraries():
        return recipe(request, progress=draw)


def numbers(given: str | float | Sequence[float]) -> tuple[float, ...]:
    """Return temperatures from a number, a list, or a text such as `0,0.5,1`.

    Raises:
        ConfigError: A part of the text is no number.
    """
    from tiltlm.recipes.answers.sample_settings import read_temperatures

    return read_temperatures(given, 1.0)


def judge_of(judge: Any) -> Any:
    """Return the settings of a judge in any form; a judge itself, or None, as it is."""
    from tiltlm.judging import Judge

    if judge is None or isinstance(judge, Judge):
        return judge
    from tiltlm.config.judges import read_judge

    return read_judge(judge)
