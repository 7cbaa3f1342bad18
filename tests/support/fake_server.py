"""An OpenAI-compatible server on loopback whose replies a test scripts."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tiltlm.judging.language.ladder import ServedModel
from tiltlm.judging.language.limits import Clock
from tiltlm.judging.language.reading import Sampling
from tiltlm.judging.language.server import Server, ServerSettings


@dataclass(frozen=True)
class Say:
    """One reply."""

    status: int = 200
    body: Any = None
    """JSON value, or bytes to send as they are."""
    headers: dict[str, str] = field(default_factory=dict)
    wait: float = 0.0
    """Seconds before anything is sent."""
    drops: bool = False
    """Close the connection in the middle of the body."""


@dataclass
class FakeServer:
    url: str
    requests: list[dict[str, Any]] = field(default_factory=list)
    """Each request: `path`, `key`, and its JSON body."""


@contextmanager
def fake_server(
    reply: Callable[[dict[str, Any], int], Say], models: Sequence[str | dict[str, Any]] = ("judge-1",)
) -> Iterator[FakeServer]:
    """Serve replies until the block ends.

    Args:
        reply: Returns the reply to a request; called with it and its number, from 0.
        models: Names that the server gives when it is asked for its models, or entries of that list. It is read anew at
            each request.
    """
    lock, closing = threading.Lock(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            data = [{"object": "model", **({"id": name} if isinstance(name, str) else name)} for name in models]
            self.send(Say(body={"object": "list", "data": data}))

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"] or 0)) or "{}")
            with lock:
                number = len(server.requests)
                request = {"path": self.path, "key": self.headers.get("authorization", ""), **body}
                server.requests.append(request)
            self.send(reply(request, number))

        def send(self, say):
            closing.wait(say.wait)
            content = say.body if isinstance(say.body, bytes) else json.dumps(say.body).encode()
            try:
                self.send_response(say.status)
                self.send_header("content-type", "application/json")
                for name, value in say.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2] if say.drops else content)
            except OSError:
                return  # the client did not wait
            if say.drops:
                self.close_connection = True

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server = FakeServer(f"http://127.0.0.1:{http.server_address[1]}/v1")
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        closing.set()
        http.shutdown()
        thread.join()
        http.server_close()


def written(text: str | None, finish: str = "stop", usage: tuple[int, int] | None = (100, 10), **message: Any) -> Say:
    """Return a chat completion with this text."""
    counts = {} if usage is None else {"usage": {"prompt_tokens": usage[0], "completion_tokens": usage[1]}}
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
    return Say(body={"model": "judge-1", "choices": [choice], **counts})


def first_token(probabilities: dict[str, Any]) -> Say:
    """Return a chat completion whose first token has these log-probabilities."""
    top = [{"token": token, "logprob": logprob} for token, logprob in probabilities.items()]
    said = written(next(iter(probabilities), ""), "length")
    said.body["choices"][0]["logprobs"] = {"content": [{"token": "A", "logprob": -1.0, "top_logprobs": top}]}
    return said


NO_ROUTE = Say(404, {"detail": "Not Found"})


class StoppedTime:
    """A clock that only sleeping moves on."""

    def __init__(self):
        self.time = 0.0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds


def asker(url, *, mode=None, price=None, concurrency=4, temperature=0.0, **settings) -> ServedModel:
    """Return a served model that never really sleeps; its waits are in `clock.slept`, each the longest it may be."""
    stopped = StoppedTime()
    clock = Clock(stopped.now, stopped.sleep, lambda: 0.0, lambda low, high: high)
    server = Server(ServerSettings(url, "judge-1", **settings), clock)
    made = ServedModel(server, mode=mode, sampling=Sampling(temperature, 64), price=price, concurrency=concurrency)
    made.clock = stopped
    return made
