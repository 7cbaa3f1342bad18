"""What every request and answer passes: allowed hosts, origin of writes, size of bodies, headers, errors.

It is outermost, so answers to refused requests and to errors have the same headers.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 2**20
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
REPORTS = "/api/csp-report"
"""Where browsers report what the content policy stopped. They send these without a usable origin."""
POLICY = "; ".join(
    (
        "default-src 'none'",
        *("script-src 'self'", "style-src 'self'", "img-src 'self'", "font-src 'self'", "connect-src 'self'"),
        *("form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'", f"report-uri {REPORTS}"),
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=(), browsing-topics=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
YEAR = 365 * 86400

log = logging.getLogger(__name__)


class _Refusal(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass(frozen=True)
class Guard:
    """The outermost part of the app."""

    app: ASGIApp
    hosts: Sequence[str]
    """Names under which the app may be called, without or with a port. Without this list a page elsewhere could have
    its own name point to this machine, and read the app as its own (DNS rebinding)."""
    secure: bool = False
    """The app is reached over HTTPS."""
    allowed: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "allowed", frozenset(host.lower() for host in self.hosts))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request, let the app answer it, and complete the answer."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self._add_headers(scope["path"], MutableHeaders(scope=message))
            await send(message)

        try:
            headers = Headers(scope=scope)
            self._check_host(headers)
            self._check_origin(scope, headers)
            body = await _read_body(headers, receive)
            await self.app(scope, _replay(body, receive), send_with_headers)
        except _Refusal as refusal:
            await _answer(send_with_headers, refusal.status, refusal.code, str(refusal))
        except Exception:
            log.exception("an error in the labelling app", extra={"event": "server_error"})
            if not started:
                await _answer(send_with_headers, 500, "internal", "the app failed; its log says why")

    def _check_host(self, headers: Headers) -> None:
        host = headers.get("host", "").lower()
        if host not in self.allowed and _without_port(host) not in self.allowed:
            raise _Refusal(
                400,
                "unknown_host",
                "the app is not served under this name. If it should be, name the address that people use: "
                "--address https://HOST",
            )

    def _check_origin(self, scope: Scope, headers: Headers) -> None:
        """Refuse writes that a page elsewhere caused. The cookie alone does not tell who wrote a request."""
        if scope["method"] in SAFE_METHODS or scope["path"] == REPORTS:
            return
        site = headers.get("sec-fetch-site")
        if site is not None:
            is_own = site in ("same-origin", "none")
        else:  # an old browser, or a name without HTTPS
            scheme = "https" if self.secure else "http"
            is_own = headers.get("origin", "").lower() == f"{scheme}://{headers['host'].lower()}"
        if not is_own:
            raise _Refusal(
                403,
                "cross_site",
                "the request does not come from a page of this app: it needs the header Sec-Fetch-Site: same-origin, "
                "or its own address as Origin",
            )

    def _add_headers(self, path: str, headers: MutableHeaders) -> None:
        for name, value in HEADERS.items():
            headers[name] = value
        headers.setdefault("Cache-Control", "no-cache" if path.startswith("/static/") else "no-store")
        if self.secure:
            headers["Strict-Transport-Security"] = f"max-age={YEAR}"


def _without_port(host: str) -> str:
    """Return a host without `:PORT`; `[::1]:80` → `[::1]`."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host


async def _read_body(headers: Headers, receive: Receive) -> bytes:
    """Return the body of a request, however it is sent, up to `MAX_BODY`."""
    refusal = _Refusal(413, "too_large", f"the request has more than {MAX_BODY:,} bytes")
    length = headers.get("content-length", "0")
    if length.isdigit() and int(length) > MAX_BODY:
        raise refusal
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Refusal(400, "incomplete", "the request ended before its body did")
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            raise refusal
        if not message.get("more_body", False):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed


async def _answer(send: Send, status: int, code: str, message: str) -> None:
    body = json.dumps({"error": {"code": code, "message": message}}).encode("ascii")
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode("ascii"))]
    if status == 413:
        headers.append((b"connection", b"close"))  # the rest of the body is not read
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
