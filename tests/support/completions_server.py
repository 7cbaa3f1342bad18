"""A scripted server with the routes `/v1/models` and `/v1/completions`, on loopback."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = Callable[[dict[str, Any], int], tuple[int, Any]]
"""Takes a request's body and how many came before it; returns a status and a body."""


class Server:
    """The address of a running server, and the requests it has got."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[dict[str, Any]] = []


@contextmanager
def serving(reply: Reply, models: tuple[str, ...] = ("tiny",)) -> Iterator[Server]:
    """Run a server that answers every completion request as `reply` says."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def send(self, status: int, body: Any) -> None:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            self.send(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in models]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(server.requests)
                server.requests.append(body)
            self.send(*reply(body, number))

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = Server(f"http://127.0.0.1:{http.server_address[1]}/v1")
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def choice(ids: list[int] | None, logps: list[float | None] | None, finish: str = "stop") -> dict[str, Any]:
    """Return a choice as vLLM writes it; `ids=None` leaves the token ids out."""
    found: dict[str, Any] = {"index": 0, "text": "", "finish_reason": finish, "logprobs": {"token_logprobs": logps}}
    return found if ids is None else {**found, "token_ids": ids}


def completion(*choices: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Return a reply with these choices."""
    return 200, {"id": "c", "object": "text_completion", "created": 0, "model": "tiny", "choices": list(choices)}
