"""The call that invites a person to label. What is heavy is imported inside the function."""

from typing import TYPE_CHECKING

from tiltlm.config.command import command

if TYPE_CHECKING:
    from tiltlm.recipes.labeling.inviting import Invited

__all__ = ["label_invite"]


@command(group="label", positionals={"name": "NAME"})
def label_invite(
    name: str,
    /,
    *,
    database: str = "label.db",
    role: str | None = None,
    address: str | None = None,
    revoke: bool = False,
) -> "Invited":
    """Make the private link of a person, or end it.

    A new link ends the old one and every session that it opened. It is shown once, and stored as a digest only. Votes
    of a person stay whatever becomes of the link.

    Args:
        name: Name of the person, as the owner of the project knows them.
        database: The labelling project: a file, or postgresql://USER@HOST/NAME.
        role: What the person may do: annotator votes; adjudicator decides disputed pairs; admin sees all numbers too.
            Without it, a new person is an annotator, and a known one keeps their role.
        address: Address at which people reach the app, such as https://label.example.org; without it,
            http://127.0.0.1:8765, where it is served by default.
        revoke: End the link and all sessions of the person, and make no new link.

    Returns:
        The person and the `link`.

    Raises:
        TiltError: Something is wrong; the message says what to change.
    """
    from tiltlm.recipes.labeling.extra import require_label

    require_label()
    from tiltlm.recipes.labeling.inviting import invite

    return invite(database, name, role=role, address=address, is_revoked=revoke)
