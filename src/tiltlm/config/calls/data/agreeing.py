"""The call that measures agreement of annotators. What is heavy is imported inside the function."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiltlm.config.command import command
from tiltlm.recipes.progress import ProgressCallback, display, quiet_libraries

if TYPE_CHECKING:
    from tiltlm.recipes.data.agreed import Agreed

__all__ = ["agreement"]


@command(argument="data")
def agreement(
    data: Any,
    *,
    labels: str | Path | None = None,
    rule: str = "soft",
    ties: str = "keep",
    min_votes: int = 1,
    prior: float = 0.5,
    json: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    progress: ProgressCallback | bool | None = True,
    **settings: Any,
) -> "Agreed | dict[str, Any]":
    """Measure agreement of annotators, and make labels.

    The data is votes: rows with annotator, vote (left, right, a, b, tie, both_bad or skip), and the id of the item or
    its prompt and two answers; or rows with a list `votes`. Prints raw agreement, Krippendorff's alpha, and for each
    annotator agreement with the majority of the others, preference for a side, and what changes without this one.

    Args:
        data: A file of votes, a folder, or a name on the Hugging Face Hub.
        labels: Write pairs with one label each to this file, and how they were made to a file beside it.
        rule: Rule of the labels: soft (share of votes), majority, or dawid_skene (weighs annotators by reliability).
        ties: What becomes of pairs without a preferred answer: keep writes them with preference 0.5, drop leaves them
            out.
        min_votes: Leave out items with fewer votes.
        prior: Laplace's prior of dawid_skene: votes that each entry of its tables has before the data.
        json: Print all numbers as JSON.
        seed: Seed of the intervals.
        overwrite: Replace the file of the labels.
        progress: True shows it: as a bar, in a notebook as a line. False: nothing is shown. A function is called with
            label, units done, units in all, and figures to show.
        **settings: Settings of section data, such as data.columns.annotator=rater.

    Returns:
        The numbers: `agreement`, `labels` and `account_path` of the files, `to_pandas()`. With `json` plain values.

    Raises:
        TiltError: Something is wrong; the message says what to change.
    """
    from tiltlm.config.resolve import resolve
    from tiltlm.data.labels import LabelSettings
    from tiltlm.recipes.data.agreement import VOTES_READ, AgreementRequest, VotesSettings
    from tiltlm.recipes.data.agreement import agreement as recipe

    request = AgreementRequest(
        labels=None if labels is None else Path(labels),
        rule=LabelSettings(rule=rule, ties=ties, min_votes=min_votes, prior=prior),
        seed=seed,
        overwrite=overwrite,
    )
    resolved = resolve(VotesSettings, None, {}, VOTES_READ, data=data, **settings)
    with display(progress) as draw, quiet_libraries():
        found = recipe(resolved, request, progress=draw)
    return found.as_dict() if json else found
