"""Serving an app over HTTP in this process."""

import http.client
import socket
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI, Request

from support.errors import raises
from support.label_server import browse
from support.labelling import invite, make_project, plain_pairs
from tiltlm.core.errors import ConfigError
from tiltlm.labeling.web.app import create_app
from tiltlm.labeling.web.serving import listen, running


def test_people_vote_on_an_app_in_a_thread(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    project = make_project(tmp_path / "label.db", plain_pairs(2))
    token = invite(project, "Ann")
    with running(create_app(project, hosts=["127.0.0.1"])) as address, browse(address, token) as ann:
        assert ann.vote(ann.work()[0]).status_code == 200
        assert "server" not in ann.get("/").headers
    project.engine.dispose()
    with pytest.raises(httpx.ConnectError):
        httpx.get(address, trust_env=False)
    assert capfd.readouterr() == ("", "")


def test_no_answer_waits_for_a_confirmation() -> None:
    """asyncio sets TCP_NODELAY only where the protocol is named; each answer took 44 ms without it."""
    with listen("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.proto == socket.IPPROTO_TCP


def test_a_port_in_use_is_named() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        taken.listen()
        with raises(ConfigError, "port_in_use", key="--port", mentions=[str(port)]):
            listen("127.0.0.1", port)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.1"])
def test_an_address_that_is_not_here_is_refused(host: str) -> None:
    with raises(ConfigError, "bad_address", key="--host", mentions=[host]):
        listen(host, 0).close()


@pytest.mark.parametrize("port", [-1, 65536, 70_000])
def test_a_port_that_does_not_exist_is_refused(port: int) -> None:
    with raises(ConfigError, "not_in_range", key="--port", mentions=[str(port)]):
        listen("127.0.0.1", port).close()


def test_proxies_are_not_believed_unless_they_are_named() -> None:
    """What the app takes for the address of a client decides whose wrong tokens are counted."""
    app = FastAPI()

    @app.get("/")
    def client(request: Request) -> str:
        return f"{request.client.host if request.client else ''} {request.url.scheme}"

    headers = {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https"}
    for proxies, expected in (((), "127.0.0.1 http"), (("127.0.0.1",), "203.0.113.7 https")):
        with running(app, proxies=proxies) as address:
            assert httpx.get(address, headers=headers, trust_env=False).json() == expected


def test_a_large_body_in_chunks_ends_the_connection(tmp_path: Path) -> None:
    """A client that goes on sending does not fill the memory."""
    project = make_project(tmp_path / "label.db", plain_pairs(1))
    with running(create_app(project, hosts=["127.0.0.1"])) as address:
        connection = http.client.HTTPConnection(address.removeprefix("http://"))
        connection.putrequest("POST", "/api/work")
        connection.putheader("Sec-Fetch-Site", "same-origin")
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        chunk = b"10000\r\n" + b" " * 2**16 + b"\r\n"
        sent = 0
        with suppress(ConnectionError):  # reset, or broken pipe
            while sent < 10_000:
                connection.send(chunk)
                sent += 1
        connection.close()
    assert sent < 10_000
    project.engine.dispose()


def test_a_header_cannot_be_put_into_an_answer(tmp_path: Path) -> None:
    """Requests with line breaks in names and addresses are refused, not copied into answers."""
    project = make_project(tmp_path / "label.db", plain_pairs(1))
    with running(create_app(project, hosts=["127.0.0.1"])) as address:
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(
                b"GET /%0d%0aX-Evil:%201 HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/html\r\nConnection: close\r\n\r\n"
            )
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
    project.engine.dispose()
    assert answer.startswith(b"HTTP/1.1 404")
    assert b"x-evil" not in answer.lower().split(b"\r\n\r\n")[0]
