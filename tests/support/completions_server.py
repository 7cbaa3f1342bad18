"""A scripted server with the routes `/v1/models` and `/v1/completions`, on loopback."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from support.fake_server import FakeServer, Say, fake_server

Reply = Callable[[dict[str, Any], int], tuple[int, Any]]
"""Takes a request's body and how many came before it; returns a status and a body."""


@contextmanager
def serving(reply: Reply, models: tuple[str, ...] = ("tiny",)) -> Iterator[FakeServer]:
    """Run a server that answers every completion request as `reply` says."""
    with fake_server(lambda request, number: Say(*reply(request, number)), models) as server:
        yield server


def choice(ids: list[int] | None, logps: list[float | None] | None, finish: str = "stop") -> dict[str, Any]:
    """Return a choice as vLLM writes it; `ids=None` leaves the token ids out."""
    found: dict[str, Any] = {"index": 0, "text": "", "finish_reason": finish, "logprobs": {"token_logprobs": logps}}
    return found if ids is None else {**found, "token_ids": ids}


def completion(*choices: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Return a reply with these choices."""
    return 200, {"id": "c", "object": "text_completion", "created": 0, "model": "tiny", "choices": list(choices)}
