"""The call that labels in a terminal. What is heavy is imported inside the function."""

from typing import TYPE_CHECKING

from tiltlm.config.command import command

if TYPE_CHECKING:
    from tiltlm.recipes.labeling.terminal import Sitting

__all__ = ["label_tui"]


@command(group="label", has_bar=False)
def label_tui(*, database: str = "label.db", as_: str | None = None) -> "Sitting":
    """Label in this terminal, one person, over SSH too.

    It shows one pair after another, with the same keys, the same database and the same rules as the web app, and both
    can be used at once. Every vote is saved when it is given. `?` shows the keys.

    Args:
        database: The labelling project: a file, or postgresql://USER@HOST/NAME.
        as_: Name of the person who labels; somebody new is added as an annotator. Without it, the name of the account.

    Returns:
        The number of votes, and of pairs that are left.

    Raises:
        TiltError: Something is wrong; the message says what to change.
    """
    from tiltlm.recipes.labeling.extra import require_label

    require_label()
    from tiltlm.recipes.labeling.terminal import label_here

    return label_here(database, as_)
