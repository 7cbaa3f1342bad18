"""People of a project: names, roles, private links and the sessions that they open.

A link holds a token of 256 random bits. The database has its SHA-256 only, which is enough for a secret of that
length; a token is shown once, when it is made. A new link ends the old one and every session it opened.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from tiltlm.core.checks import suggestion
from tiltlm.core.errors import ConfigError, DataError
from tiltlm.labeling.store.database import now
from tiltlm.labeling.store.tables import IS_HELD, assignment, person, session

Role = Literal["annotator", "adjudicator", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
"""An adjudicator decides disputed pairs, and does not vote on them. An admin does that, and sees all numbers."""

SESSION_SECONDS = 30 * 86400.0
MAX_NAME = 80
PSEUDONYM_DIGITS = 8
"""Two of a hundred people have the same one in 1 of 870,000 projects."""
HIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, invisible ones, those that turn the direction of text, and halves of surrogate pairs."""


@dataclass(frozen=True)
class Person:
    """Somebody who may use the app."""

    id: int
    name: str
    role: Role
    is_active: bool = True
    has_link: bool = False


def hashed(secret: str) -> str:
    """Return the SHA-256 of a token, as the database has it."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def pseudonym(secret: bytes, person_id: int) -> str:
    """Return a name for a person that says nothing about who it is, such as `annotator-3f2a9c1e`.

    It is the same in every export of a project. Without the project's secret nobody can tell whose it is.
    """
    text = f"pseudonym:{person_id}".encode()
    return f"annotator-{hmac.new(secret, text, hashlib.sha256).hexdigest()[:PSEUDONYM_DIGITS]}"


def _person(row: Any) -> Person | None:
    return None if row is None else Person(row[0], row[1], row[2], row[3], row[4] is not None)


_COLUMNS = (person.c.id, person.c.name, person.c.role, person.c.is_active, person.c.token_sha256)


def find_person(connection: Connection, name: str) -> Person | None:
    """Return a person by name; None if there is none."""
    return _person(connection.execute(select(*_COLUMNS).where(person.c.name == name)).first())


def list_people(connection: Connection) -> list[Person]:
    """Return everybody, in the order of names."""
    rows = connection.execute(select(*_COLUMNS).order_by(person.c.name))
    return [one for row in rows if (one := _person(row)) is not None]


def check_name(name: str) -> str:
    """Return a name without blanks around it.

    Raises:
        ConfigError: It is empty, too long, or has characters that cannot be seen.
    """
    name = name.strip()
    if not 1 <= len(name) <= MAX_NAME or HIDDEN.search(name):
        raise ConfigError(
            f"the name {name[:MAX_NAME]!r} cannot be used; a name has 1 to {MAX_NAME} characters, all of them visible",
            code="bad_name",
            key="NAME",
        )
    return name


def add_person(connection: Connection, name: str, role: str = "annotator") -> Person:
    """Return the person of this name with this role; new people are added, without a link.

    Raises:
        ConfigError: The name cannot be used, or the role is unknown.
    """
    name = check_name(name)
    if role not in ROLES:
        raise ConfigError(
            f"--role is {role!r}{suggestion(role, ROLES)} It must be one of {', '.join(ROLES)}",
            code="unknown_name",
            key="--role",
        )
    found = find_person(connection, name)
    if found is None:
        values = {"name": name, "role": role, "is_active": True, "created_at": now()}
        connection.execute(insert(person).values(values))
    elif found.role != role:
        connection.execute(update(person).where(person.c.id == found.id).values(role=role))
    found = find_person(connection, name)
    assert found is not None, "it was added"
    return found


def new_token(connection: Connection, who: Person) -> str:
    """Return a new token for a person; the old one and all sessions end."""
    token = secrets.token_urlsafe(32)
    connection.execute(update(person).where(person.c.id == who.id).values(token_sha256=hashed(token), is_active=True))
    connection.execute(delete(session).where(session.c.person_id == who.id))
    return token


def revoke(connection: Connection, name: str) -> Person:
    """End the link and the sessions of a person. Votes stay; pairs without a vote are free for others at once.

    Raises:
        DataError: There is no such person.
    """
    found = find_person(connection, name)
    if found is None:
        names = ", ".join(one.name for one in list_people(connection)) or "nobody"
        raise DataError(f"there is no {name!r}; the project has {names}", code="unknown_name", key="NAME")
    connection.execute(update(person).where(person.c.id == found.id).values(token_sha256=None, is_active=False))
    connection.execute(delete(session).where(session.c.person_id == found.id))
    held = update(assignment).where(assignment.c.person_id == found.id, IS_HELD)
    connection.execute(held.values(expires_at=0.0))
    return found


def sign_in(connection: Connection, token: str) -> tuple[Person, str] | None:
    """Exchange a token for a session.

    Returns:
        The person and the value of the cookie; None if the token is unknown or revoked.
    """
    wanted = select(*_COLUMNS).where(person.c.token_sha256 == hashed(token), person.c.is_active)
    found = _person(connection.execute(wanted).first())
    if found is None:
        return None
    cookie = secrets.token_urlsafe(32)
    start = now()
    connection.execute(delete(session).where(session.c.expires_at < start))
    values = {"sha256": hashed(cookie), "person_id": found.id, "created_at": start}
    connection.execute(insert(session).values({**values, "expires_at": start + SESSION_SECONDS}))
    return found, cookie


_OF_COOKIE = (
    select(*_COLUMNS)
    .join(session, session.c.person_id == person.c.id)
    .where(session.c.sha256 == bindparam("digest"), session.c.expires_at > bindparam("time"), person.c.is_active)
)


def person_of_cookie(connection: Connection, cookie: str) -> Person | None:
    """Return whose session a cookie is; None if it is unknown, old or revoked."""
    return _person(connection.execute(_OF_COOKIE, {"digest": hashed(cookie), "time": now()}).first())


def sign_out(connection: Connection, cookie: str) -> None:
    """End a session."""
    connection.execute(delete(session).where(session.c.sha256 == hashed(cookie)))
