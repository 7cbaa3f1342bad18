"""Serving the labelling app: the project, the links of people, and what whoever runs it must know."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from tiltlm.core.errors import ConfigError
from tiltlm.labeling.monitor.planning import plan_project
from tiltlm.labeling.store.database import is_url, reading
from tiltlm.labeling.store.journal import JournalWriter, journal_path
from tiltlm.labeling.store.people import check_name, find_person, list_people
from tiltlm.labeling.store.projects import Project
from tiltlm.labeling.web.app import create_app
from tiltlm.labeling.web.serving import listen, serve
from tiltlm.recipes.labeling.copying import num_votes
from tiltlm.recipes.labeling.inviting import check_address, make_link
from tiltlm.recipes.labeling.pairs.requests import PrepareRequest
from tiltlm.recipes.labeling.preparing import count_pairs, prepare
from tiltlm.recipes.progress import ProgressCallback, display

log = logging.getLogger(__name__)

OWNER = "owner"
"""Name of the admin whose link is printed."""
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
"""Names of this machine."""
FEW_VOTES = 100
"""Votes below which the plan is printed."""
READY = (
    "the app is ready at %s. People are invited on the page of the owner, or by `tiltlm label invite`; "
    "`tiltlm label status --database %s` shows how far they are. Ctrl-C stops the app"
)


@dataclass(frozen=True)
class Place:
    """Where the app listens, and at which address people reach it."""

    host: str = "127.0.0.1"
    port: int = 8765
    address: str | None = None
    """Such as https://label.example.org; None: `http://HOST:PORT`, on this machine only."""
    proxies: tuple[str, ...] = ()
    """Addresses of proxies whose headers are believed."""

    def __post_init__(self) -> None:
        if self.address is not None:
            check_address(self.address)
        elif not is_loopback(self.host):
            raise ConfigError(
                f"--host is {self.host!r}, so other machines can reach the app; give the address that people open: "
                "--address https://label.example.org",
                code="missing_setting",
                key="--address",
            )

    def base(self, port: int) -> str:
        """Return the address that links begin with.

        Args:
            port: The port that the app has.
        """
        host = f"[{self.host}]" if ":" in self.host else self.host
        return check_address(self.address or f"http://{host}:{port}")

    def hosts(self, port: int) -> list[str]:
        """Return the names under which the app may be called."""
        parts = urlsplit(self.base(port))
        return list(dict.fromkeys([parts.netloc, str(parts.hostname), *LOOPBACK]))

    @property
    def is_secure(self) -> bool:
        """True if people reach the app over HTTPS."""
        return (self.address or "").startswith("https://")

    def notes(self) -> list[str]:
        """Return what must be known about the safety of the place."""
        if is_loopback(self.host) or self.is_secure:
            return []
        return [
            "links and votes go over the network without encryption; put a proxy with TLS before the app (Caddy, "
            "nginx), let the app listen on 127.0.0.1, and give --address https://NAME"
        ]


def is_loopback(host: str) -> bool:
    """Return True if only this machine can reach a host."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class ServeRequest:
    """A project to serve."""

    prepare: PrepareRequest
    place: Place = field(default_factory=Place)
    names: tuple[str, ...] = ()
    """People who get a link, if they have none."""


@dataclass(frozen=True)
class Served:
    """An app that was served until it was stopped."""

    database: str
    num_votes: int
    """Votes in the project, undone ones too."""
    exit_code: int
    """128 and the signal that stopped it."""

    def summary(self) -> str:
        """Return what the command line prints."""
        return (
            f"stopped; {self.num_votes:,} votes are in {self.database}. Go on: tiltlm label serve --database "
            f"{self.database}"
        )


def label(request: ServeRequest, *, progress: ProgressCallback | bool | None, show: Callable[[str], None]) -> Served:
    """Make or continue a project, and serve its app until SIGINT or SIGTERM.

    Args:
        request: The project, and where the app listens.
        progress: As for every call.
        show: Called with each private link, with the name before it.

    Raises:
        TiltError: A setting, a source, the database or the port cannot be used.
    """
    for name in request.names:
        check_name(name)
    listen(request.place.host, request.place.port).close()  # refuse a port in use before anything takes time
    with display(progress) as draw:
        project = prepare(request.prepare, progress=draw)
    with project, listen(request.place.host, request.place.port) as listening:
        port = listening.getsockname()[1]
        base = request.place.base(port)
        for line in [*describe(project, request.prepare.database), *request.place.notes()]:
            log.info(line)
        for name, link in links(project, request.names, base):
            show(f"{name}  {link}")
        with app_of(project, request.place, port) as app:
            signum = serve(
                app, listening, proxies=request.place.proxies, on_ready=lambda: log.info(READY, base, project.name)
            )
        return Served(project.name, num_votes(project), 128 + signum if signum else 0)


@contextmanager
def app_of(project: Project, place: Place, port: int) -> Iterator[ASGIApp]:
    """Give the app of a project to the block. While it runs, each vote goes to the journal too.

    Args:
        project: The project.
        place: Where the app listens.
        port: The port that it has there.
    """
    app = create_app(project, hosts=place.hosts(port), secure=place.is_secure)
    with JournalWriter(project) as journal:

        async def call(scope: Scope, receive: Receive, send: Send) -> None:
            await app(scope, receive, send)
            if scope["type"] == "http" and scope["method"] == "POST":
                journal.wake()

        yield call


def links(project: Project, names: Sequence[str], base: str) -> list[tuple[str, str]]:
    """Return a new link of the owner, and one for each name that has none.

    Args:
        project: The project.
        names: People who are invited.
        base: Address of the app.
    """
    found = []
    for name in dict.fromkeys((OWNER, *names)):
        with reading(project.engine) as connection:
            known = find_person(connection, check_name(name))
        if known is not None and known.has_link and name != OWNER:
            log.info("%s has a link already; `tiltlm label invite` makes a new one, and ends the old one", name)
            continue
        made = make_link(project, name, "admin" if name == OWNER else None, base)
        found.append((made.name, str(made.link)))
    return found


def describe(project: Project, database: str) -> list[str]:
    """Return where a project is, and what it will cost, as sentences for people.

    Args:
        project: The project.
        database: Its database, as the user named it.
    """
    where = project.name if is_url(database) else str(Path(database).absolute())
    journal = journal_path(project)
    lines = [f"database {where}", *([f"journal  {journal}, every vote as text"] if journal else [])]
    counts = count_pairs(project)
    with reading(project.engine) as connection:
        people = [one for one in list_people(connection) if one.role == "annotator" and one.is_active]
    if num_votes(project) < FEW_VOTES:
        plan = plan_project(
            counts.get("task", 0),
            project.settings,
            num_people=len(people),
            num_gold=counts.get("gold", 0),
            num_calibration=counts.get("calibration", 0),
        )
        lines += plan.lines()
    else:
        lines.append(f"{counts.get('task', 0):,} pairs")
    return lines
