"""The call that labels in a terminal. What is heavy is imported inside the function."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tiltlm.config.command import command

if TYPE_CHECKING:
    from tiltlm.recipes.labeling.terminal import Sitting

__all__ = ["label_tui"]


@command(group="label", arguments="sources", has_bar=False)
def label_tui(
    sources: Sequence[str | Path] = (), /, *, database: str = "label.db", as_: str | None = None
) -> "Sitting":
    """Label in this terminal, one person, over SSH too.

    It shows one pair after another, with the same keys, the same database and the same rules as the web app, and both
    can be used at once. Every vote is saved when it is given. `?` shows the keys.

    Args:
        sources: A file of pairs or of lists of responses, whose pairs are added. Without it, the project of the
            database is continued.
        database: The labelling project: a file, or postgresql://USER@HOST/NAME. A new one asks for one vote on each
            pair; `tiltlm label serve` makes projects with other settings.
        as_: Name of the person who labels; somebody new is added as an annotator. Without it, the name of the account.

    Returns:
        The number of votes, and of pairs that are left.

    Raises:
        TiltError: Something is wrong; the message says what to change.
    """
    from tiltlm.recipes.labeling.extra import require_label

    require_label()
    from tiltlm.recipes.labeling.terminal import label_here

    return label_here([str(one) for one in sources], database, as_)
