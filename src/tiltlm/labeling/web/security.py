"""Who sends a request: sessions, roles, and how many requests are too many.

A cookie and a token are looked up by their SHA-256. The time that takes tells nothing about a token: two tokens that
begin alike have unlike digests.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import Depends, Request
from limits import RateLimitItem, RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from starlette.responses import Response

from tiltlm.labeling.store.database import reading
from tiltlm.labeling.store.people import SESSION_SECONDS, Person, Role, hashed, person_of_cookie
from tiltlm.labeling.store.projects import Project

COOKIE = "tiltlm_session"
WRONG_TOKENS = RateLimitItemPerMinute(20)
"""Of one address. A token has 256 bits, so this protects the log and the processor more than the tokens."""
WRITES = RateLimitItemPerMinute(600)
"""Of one session: a fast person sends two a second."""
REPORTS = RateLimitItemPerMinute(60)
"""Of all browsers together."""


class Denied(Exception):
    """A request that is refused for who sends it, or for how many there are."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Limiter:
    """Counts of requests, in the memory of this process."""

    def __init__(self) -> None:
        self._counts = FixedWindowRateLimiter(MemoryStorage())

    def is_over(self, item: RateLimitItem, *names: str) -> bool:
        """Return True if no more requests are allowed now; nothing is counted."""
        return not self._counts.test(item, *names)

    def count(self, item: RateLimitItem, *names: str) -> bool:
        """Count a request; False if it is one too many."""
        return self._counts.hit(item, *names)


async def project_of(request: Request) -> Project:
    """Return the project that the app serves."""
    project: Project = request.app.state.project
    return project


def limiter_of(request: Request) -> Limiter:
    """Return the counts of the app."""
    limiter: Limiter = request.app.state.limiter
    return limiter


def signed_in(request: Request, project: Annotated[Project, Depends(project_of)]) -> Person:
    """Return who sends a request.

    Raises:
        Denied: 401 `signed_out`: there is no session, or it is unknown, old or revoked. 429 `too_many`: this session
            writes too much.
    """
    cookie = request.cookies.get(COOKIE)
    person = None
    if cookie:
        with reading(project.engine) as connection:
            person = person_of_cookie(connection, cookie)
    if cookie is None or person is None:
        raise Denied(401, "signed_out", "you are not signed in, or your link has ended; open your private link again")
    if request.method != "GET" and not limiter_of(request).count(WRITES, "write", hashed(cookie)):
        raise Denied(429, "too_many", f"more than {WRITES.amount} requests a minute; wait a moment")
    return person


def require(*roles: Role) -> Callable[..., Awaitable[Person]]:
    """Return a dependency: the person who sends a request, who must have one of these roles.

    Raises:
        Denied: 403 `forbidden`, beside those of `signed_in`.
    """

    async def with_role(who: Annotated[Person, Depends(signed_in)]) -> Person:
        if who.role not in roles:
            raise Denied(403, "forbidden", f"this is for the role {' or '.join(roles)}; yours is {who.role}")
        return who

    return with_role


def client_address(request: Request) -> str:
    """Return the address of a client: the other end of the connection, unless the server trusts a proxy."""
    return request.client.host if request.client else "unknown"


def set_cookie(response: Response, cookie: str, *, secure: bool) -> None:
    """Give a browser its session. Scripts cannot read it, and pages elsewhere cannot send it."""
    response.set_cookie(COOKIE, cookie, max_age=int(SESSION_SECONDS), **_attributes(secure=secure))


def drop_cookie(response: Response, *, secure: bool) -> None:
    """Take a session from a browser."""
    response.delete_cookie(COOKIE, **_attributes(secure=secure))


def _attributes(*, secure: bool) -> dict[str, Any]:
    return {"path": "/", "httponly": True, "samesite": "strict", "secure": secure}
