"""The calls of whoever runs a labelling project. What is heavy is imported inside the functions."""

from typing import TYPE_CHECKING, Any

from tiltlm.config.command import command

if TYPE_CHECKING:
    from tiltlm.recipes.labeling.adjudicating import Disputed, Disputes
    from tiltlm.recipes.labeling.inspecting import Inspected

__all__ = ["label_adjudicate", "label_status"]


@command(group="label")
def label_status(*, database: str = "label.db", json: bool = False) -> "Inspected | dict[str, Any]":
    """Print coverage, agreement and the verdict of a project.

    It also says whether the votes that are still planned can change the verdict. The app's admin page shows the same
    numbers.

    Args:
        database: The labelling project: a file, or postgresql://USER@HOST/NAME.
        json: Print all numbers as JSON.

    Returns:
        The numbers: `status`, and `to_pandas()` for one row per annotator. With `json` plain values.

    Raises:
        TiltError: Something is wrong; the message says what to change.
    """
    from tiltlm.recipes.labeling.extra import require_label

    require_label()
    from tiltlm.recipes.labeling.inspecting import inspect

    found = inspect(database)
    return found.as_dict() if json else found


@command(group="label", positionals={"pair": "[PAIR]", "choice": "[CHOICE]"})
def label_adjudicate(
    pair: str | None = None,
    choice: str | None = None,
    /,
    *,
    database: str = "label.db",
    note: str = "",
    as_: str | None = None,
    json: bool = False,
) -> "Disputes | Disputed | dict[str, Any]":
    """Decide pairs on which annotators disagree.

    Without arguments it lists disputed pairs. With PAIR it shows one, and what was said about it. With PAIR and CHOICE
    it decides the pair: this label counts in place of the votes. The newest decision counts.

    Args:
        pair: Id of a pair.
        choice: Which response is better: a, b or tie.
        database: The labelling project: a file, or postgresql://USER@HOST/NAME.
        note: Why, for those who look at the pair later.
        as_: Name of the person who decides; somebody new becomes an adjudicator. Without it, the name of the account.
        json: Print JSON.

    Returns:
        The list, or the pair. With `json` plain values.

    Raises:
        TiltError: Something is wrong; the message says what to change.
    """
    from tiltlm.recipes.labeling.extra import require_label

    require_label()
    from tiltlm.recipes.labeling.adjudicating import adjudicate_pair

    found = adjudicate_pair(database, pair, choice, note=note, name=as_)
    return found.as_dict() if json else found
