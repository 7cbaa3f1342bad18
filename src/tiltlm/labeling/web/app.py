"""Making the web app of a project."""

import hashlib
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates

import tiltlm
from tiltlm.labeling.store.projects import Project
from tiltlm.labeling.web import api
from tiltlm.labeling.web.admin import adjudication, overview
from tiltlm.labeling.web.admin.formatting import add_filters
from tiltlm.labeling.web.admin.numbers import Numbers
from tiltlm.labeling.web.answers import add_error_answers
from tiltlm.labeling.web.guard import Guard
from tiltlm.labeling.web.security import Limiter

FOLDER = Path(__file__).parent
KEPT_REPORTS = 20

pages = APIRouter(include_in_schema=False)


def create_app(project: Project, *, hosts: Sequence[str], secure: bool = False) -> FastAPI:
    """Return the web app of a project.

    Args:
        project: An open project.
        hosts: Names under which people reach the app, such as `127.0.0.1` or `label.example.org`; with a port, only
            that port is meant.
        secure: It is reached over HTTPS: the cookie is never sent without, and browsers do not come back without.

    Returns:
        An ASGI app. `app.state.csp_reports` has the newest reports of what the content policy stopped.
    """
    app = FastAPI(
        title="tiltlm label",
        version=tiltlm.__version__,
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
        middleware=[Middleware(Guard, hosts=tuple(hosts), secure=secure)],
    )
    app.state.project = project
    app.state.secure = secure
    app.state.limiter = Limiter()
    app.state.csp_reports = deque(maxlen=KEPT_REPORTS)
    app.state.ui_version = ui_version()
    app.state.templates = Jinja2Templates(FOLDER / "templates", context_processors=[_context])
    app.state.numbers = Numbers(project)
    add_filters(app.state.templates)
    add_error_answers(app, app.state.templates)
    app.include_router(api.router)
    app.include_router(pages)
    app.include_router(overview.router)
    app.include_router(adjudication.router)
    app.mount("/static", StaticFiles(directory=FOLDER / "static"), name="static")
    return app


def ui_version() -> str:
    """Return the version of the pages: that of the package, and a digest of templates and scripts."""
    found = hashlib.sha256()
    for path in sorted(path for part in ("templates", "static") for path in (FOLDER / part).rglob("*")):
        if path.is_file():
            found.update(path.name.encode("utf-8") + b"\0" + path.read_bytes())
    return f"{tiltlm.__version__}+{found.hexdigest()[:8]}"


def _context(request: Request) -> dict[str, str]:
    return {"ui_version": request.app.state.ui_version}


@pages.get("/")
def label_page(request: Request) -> Response:
    """Return the page on which people vote: a shell, with nothing about anybody."""
    templates: Jinja2Templates = request.app.state.templates
    return templates.TemplateResponse(request, "label.html")


@pages.get("/join")
def join_page(request: Request) -> Response:
    """Return the page that a private link opens."""
    templates: Jinja2Templates = request.app.state.templates
    return templates.TemplateResponse(request, "join.html")
