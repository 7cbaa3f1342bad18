"""Answers in JSON, and errors as answers."""

import json
import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Match
from starlette.templating import Jinja2Templates

from tiltlm.core.errors import RunError, TiltError
from tiltlm.labeling.web.messages import Problem
from tiltlm.labeling.web.security import Denied

STATUS = {"signed_out": 401, "gone": 409, "voted": 409, "nothing_to_undo": 409, "forbidden": 403, "too_long": 413}
OF_THE_DATABASE = {
    "disk_full": (
        507,
        "the disk of the server is full, and nothing was kept; tell who runs this app, and send it again",
    ),
    "busy": (503, "the server is busy, and nothing was kept; send it again"),
    "unreachable": (503, "the database of the server does not answer, and nothing was kept; send it again"),
}
"""Own messages: those of the store name files and addresses, which are nobody's concern but the log's."""
BROKEN = frozenset({"damaged", "not_writable"})
"""Codes of a database that a person must repair: for the browser an unexpected error."""
METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
NAMES = {404: "not_found", 405: "not_allowed", 400: "bad_request"}

log = logging.getLogger(__name__)


class Ascii(JSONResponse):
    """JSON in ASCII. Lone surrogates are escaped, so that a text arrives as it is in the database."""

    def render(self, content: Any) -> bytes:
        """Return content as JSON."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the refusals of a route, for the description of the interface."""
    return {status: {"model": Problem} for status in sorted({*statuses, 400, 403, 429, 503})}


def add_error_answers(app: FastAPI, templates: Jinja2Templates) -> None:
    """Let an app answer errors by `{"error": {"code", "message"}}`, or by a page where a browser asks for one."""

    def answer(request: Request, status: int, code: str, message: str) -> Response:
        headers = {"Retry-After": "1"} if status == 503 else {"Retry-After": "30"} if status == 429 else None
        if not request.url.path.startswith("/api/") and "text/html" in request.headers.get("accept", ""):
            context = {"status": status, "code": code, "message": message}
            return templates.TemplateResponse(request, "error.html", context, status, headers)
        return Ascii({"error": {"code": code, "message": message}}, status, headers)

    def on_denied(request: Request, error: Exception) -> Response:
        assert isinstance(error, Denied)
        return answer(request, error.status, error.code, str(error))

    def on_own(request: Request, error: Exception) -> Response:
        assert isinstance(error, TiltError)
        if error.code in OF_THE_DATABASE:
            log.warning("%s", error, extra={"event": error.code})
            status, message = OF_THE_DATABASE[error.code]
            return answer(request, status, error.code, message)
        if isinstance(error, RunError) or error.code in BROKEN:
            raise error
        return answer(request, STATUS.get(error.code, 400), error.code, str(error))

    def on_invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        found = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:5])
        return answer(request, 422, "invalid", found)

    def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        answered = answer(request, error.status_code, NAMES.get(error.status_code, "refused"), str(error.detail))
        if error.status_code == 405:
            answered.headers["Allow"] = ", ".join(_allowed(request))
        return answered

    app.add_exception_handler(Denied, on_denied)
    app.add_exception_handler(TiltError, on_own)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)


def _allowed(request: Request) -> list[str]:
    """Return the methods of an address. Starlette names those of one function only."""
    scopes = {method: {**request.scope, "method": method} for method in METHODS}
    routes = request.app.router.routes
    return [method for method in METHODS if any(one.matches(scopes[method])[0] is Match.FULL for one in routes)]
