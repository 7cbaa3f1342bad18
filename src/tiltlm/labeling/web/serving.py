"""Serving an app over HTTP in this process."""

import errno
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from tiltlm.core.errors import ConfigError

GRACE_SECONDS = 10
"""How long requests may go on after the server was asked to stop."""
BACKLOG = 512
"""Connections that wait to be accepted."""
KEEP_ALIVE_SECONDS = 75
"""A person reads this long; a new connection is not needed for the next vote."""


class _Server(uvicorn.Server):
    """A server that takes the signals which `serve` gives to it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 is any free one.

    Raises:
        ConfigError: `not_in_range`: there is no such port. `port_in_use`. `bad_address`: the host is unknown here, or
            the port may not be used.
    """
    if not 0 <= port <= 65535:
        raise ConfigError(f"--port is {port}; it must be from 0 to 65535", code="not_in_range", key="--port")
    made = None
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        # With the protocol named, asyncio turns off Nagle's algorithm. Every answer would take 40 ms longer otherwise.
        made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        if os.name == "posix":
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address[:2])
        made.listen(BACKLOG)
        return made
    except OSError as error:
        if made is not None:
            made.close()
        with_port = f"{host}:{port}"
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"{with_port} is in use, maybe by this app already; choose another port: --port {port + 1}",
                code="port_in_use",
                key="--port",
            ) from error
        raise ConfigError(f"the app cannot listen at {with_port}: {error}", code="bad_address", key="--host") from error


def serve(
    app: ASGIApp,
    listening: socket.socket,
    *,
    proxies: Sequence[str] = (),
    on_ready: Callable[[], None] | None = None,
) -> int:
    """Serve an app until the process gets SIGINT or SIGTERM; requests that run are finished.

    Call it in the main thread.

    Args:
        app: The app.
        listening: From `listen`; it is closed at the end.
        proxies: Addresses of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed.
        on_ready: Called when the app takes requests.

    Returns:
        The signal. A second one ends the requests too.
    """
    got: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        server.force_exit = bool(got)
        got.append(number)
        server.should_exit = True

    server = _server(app, proxies, on_ready)
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run(sockets=[listening])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return got[0] if got else 0


@contextmanager
def running(app: ASGIApp, host: str = "127.0.0.1", port: int = 0, *, proxies: Sequence[str] = ()) -> Iterator[str]:
    """Serve an app in a thread while the block runs, which gets its address, such as `http://127.0.0.1:8765`."""
    ready = threading.Event()
    listening = listen(host, port)
    address = f"http://{host}:{listening.getsockname()[1]}"
    server = _server(app, proxies, ready.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="label server", daemon=True)
    thread.start()
    try:
        if not ready.wait(30):
            raise RuntimeError("the labelling app did not start within 30 seconds")
        yield address
    finally:
        server.should_exit = True
        thread.join()


def _server(app: ASGIApp, proxies: Sequence[str], on_ready: Callable[[], None] | None) -> uvicorn.Server:
    options: dict[str, Any] = {"log_config": None, "access_log": False, "server_header": False, "ws": "none"}
    options |= {"proxy_headers": bool(proxies), "forwarded_allow_ips": list(proxies)}
    options |= {"timeout_graceful_shutdown": GRACE_SECONDS, "timeout_keep_alive": KEEP_ALIVE_SECONDS}
    server = _Server(uvicorn.Config(app, lifespan="off", **options))
    if on_ready is not None:
        _call_when_started(server, on_ready)
    return server


def _call_when_started(server: uvicorn.Server, on_ready: Callable[[], None]) -> None:
    startup = server.startup

    async def then_call(sockets: list[socket.socket] | None = None) -> None:
        await startup(sockets)
        on_ready()

    server.startup = then_call  # type: ignore[method-assign]
