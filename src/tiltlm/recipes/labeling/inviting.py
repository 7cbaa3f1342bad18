"""Private links of people: making them, showing them once, ending them."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from tiltlm.core.errors import ConfigError
from tiltlm.labeling.store.audit import COMMAND_LINE, write_audit
from tiltlm.labeling.store.database import writing
from tiltlm.labeling.store.people import add_person, check_name, find_person, new_token, revoke
from tiltlm.labeling.store.projects import Project, open_project

DEFAULT_ADDRESS = "http://127.0.0.1:8765"
"""Where `tiltlm label serve` listens by default."""


@dataclass(frozen=True)
class Invited:
    """A person and their link."""

    name: str
    role: str
    link: str | None
    """The private link; None: the person has no link any more."""

    def summary(self) -> str:
        """Return what the command line prints: the link alone, so that it can be copied or piped."""
        return f"the link of {self.name} has ended" if self.link is None else self.link


def invite(
    database: str, name: str, *, role: str | None = None, address: str | None = None, is_revoked: bool = False
) -> Invited:
    """Make the private link of a person, or end it.

    Args:
        database: The project.
        name: Name of the person; somebody new is added.
        role: The role; None: that of a known person, and annotator for a new one.
        address: Address of the app.
        is_revoked: End the link, and make none.

    Raises:
        ConfigError: A setting is wrong.
        DataError: There is no such project, or nobody of this name whose link could end.
    """
    if is_revoked and (role or address):
        raise ConfigError(
            "--role and --address have no effect with --revoke; remove them", code="no_effect", key="--revoke"
        )
    base = check_address(address or DEFAULT_ADDRESS)
    with open_project(database) as project:
        if not is_revoked:
            return make_link(project, name, role, base)
        with writing(project.engine) as connection:
            who = revoke(connection, name.strip())
            write_audit(connection, COMMAND_LINE, "revoke", name=who.name)
        return Invited(who.name, who.role, None)


def make_link(project: Project, name: str, role: str | None, address: str) -> Invited:
    """Add a person if they are new, and make a new link for them.

    Args:
        project: The project.
        name: Name of the person.
        role: The role; None: that of a known person, and annotator for a new one.
        address: Address of the app.
    """
    name = check_name(name)
    with writing(project.engine) as connection:
        known = find_person(connection, name)
        who = add_person(connection, name, role or (known.role if known else "annotator"))
        token = new_token(connection, who)
        write_audit(connection, COMMAND_LINE, "invite", name=who.name, role=who.role)
    return Invited(who.name, who.role, f"{address}/join#{token}")


def check_address(address: str) -> str:
    """Return the address of the app without a slash at its end.

    Raises:
        ConfigError: It is not `http://HOST` or `https://HOST`, with a port or not.
    """
    parts = urlsplit(address)
    has_more = parts.path.strip("/") or parts.query or parts.fragment or parts.username
    if parts.scheme not in ("http", "https") or not parts.hostname or has_more:
        raise ConfigError(
            f"--address is {address!r}; it must be the address at which people reach the app, such as "
            "https://label.example.org or http://192.168.1.5:8765",
            code="bad_address",
            key="--address",
        )
    return f"{parts.scheme}://{parts.netloc}"
