"""What the routes of the admin's pages have in common: who asks, the form that was sent, the page that answers."""

from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import Depends, Request
from starlette.responses import RedirectResponse, Response
from starlette.templating import Jinja2Templates

from tiltlm.labeling.store.database import storable
from tiltlm.labeling.store.people import Person
from tiltlm.labeling.store.projects import Project
from tiltlm.labeling.web.security import Denied, project_of, require

MAX_FIELDS = 50


async def read_form(request: Request) -> dict[str, str]:
    """Return the fields of a form as databases can hold them; of a name that comes twice, the last value.

    Raises:
        Denied: 400 `bad_form`: the body is no form.
    """
    try:
        fields = parse_qs(
            (await request.body()).decode("utf-8"), keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict"
        )
    except ValueError as error:
        raise Denied(400, "bad_form", "the request is no form of this app") from error
    return {name: storable(values[-1]) for name, values in fields.items()}


ProjectOf = Annotated[Project, Depends(project_of)]
Form = Annotated[dict[str, str], Depends(read_form)]
Admin = Annotated[Person, Depends(require("admin"))]
Adjudicator = Annotated[Person, Depends(require("adjudicator", "admin"))]


def field(form: dict[str, str], name: str) -> str:
    """Return a field of a form.

    Raises:
        Denied: 400 `bad_form`: it is missing.
    """
    if name not in form:
        raise Denied(400, "bad_form", f"the form has no field {name}")
    return form[name]


def show(request: Request, template: str, who: Person, **values: Any) -> Response:
    """Return a page."""
    templates: Jinja2Templates = request.app.state.templates
    title = request.app.state.project.settings.title
    return templates.TemplateResponse(request, template, {"who": who, "project_title": title, **values})


def go(path: str) -> Response:
    """Return the answer to a form: the browser loads this page, and a reload sends nothing again."""
    return RedirectResponse(path, status_code=303)
