"""The call that takes the best of n answers. What is heavy is imported inside the function."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiltlm.config.command import command
from tiltlm.recipes.progress import ProgressCallback, display, quiet_libraries

if TYPE_CHECKING:
    from tiltlm.recipes.studies.best_of_n import BestOfNRun

__all__ = ["best_of_n"]


@command(argument="model")
def best_of_n(
    model: str | Path,
    *,
    prompts: str | Path | None = None,
    judge: Any = None,
    gold: Any = None,
    n: int = 64,
    max_new_tokens: int = 256,
    limit: int | None = None,
    output: str | Path = "best-of-n",
    markdown: bool = False,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    progress: ProgressCallback | bool | None = True,
) -> "BestOfNRun":
    """Measure what choosing the best of n answers wins.

    One pool of answers gives every n. The judge chooses. A gold judge, which does not, shows what was really won, and
    from which n on choosing harder does harm. The winners are written as demonstrations to train on.

    Args:
        model: A folder, a run, a name on the Hugging Face Hub, or a file of answers.
        prompts: Data of any shape whose prompts are answered; not with a file of answers.
        judge: What chooses: KIND:ARGUMENT, such as reward_model:FOLDER or lexicon, or a YAML file with its settings.
        gold: A judge that does not choose, in the same forms.
        n: Answers to each prompt.
        max_new_tokens: An answer that has not ended is cut after this many tokens.
        limit: Most prompts.
        output: Folder of the results; it must be new or empty.
        markdown: Write best-of-n.md too, a summary for a pull request or a model card.
        seed: Seed of answers and intervals.
        resume: Use the answers that are in the output folder; judgements are never made twice in any case.
        overwrite: Draw the answers again.
        progress: True shows it: as a bar, in a notebook as a line. False: nothing is shown. A function is called with
            label, units done, units in all, and figures to show.

    Returns:
        The curves: `pool.curve`, `to_pandas()`, and `path` of the folder with best-of-n.html and winners.jsonl.

    Raises:
        TiltError: Something is wrong; the message says what to change.
    """
    from tiltlm.config.calls.comparing import judge_of
    from tiltlm.recipes.studies.best_of_n import PoolRequest
    from tiltlm.recipes.studies.best_of_n import best_of_n as recipe

    request = PoolRequest(
        model=str(model),
        prompts=None if prompts is None else str(prompts),
        judge=judge_of(judge),
        gold=judge_of(gold),
        output=Path(output),
        n=n,
        max_new_tokens=max_new_tokens,
        limit=limit,
        seed=seed,
        markdown=markdown,
        resume=resume,
        overwrite=overwrite,
    )
    with display(progress) as draw, quiet_libraries():
        return recipe(request, progress=draw)
