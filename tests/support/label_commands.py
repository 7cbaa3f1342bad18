"""Commands of the labelling app as processes, and people who use their links over HTTP."""

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

READY = ("the app is ready", "/join#")
"""Texts on stderr, one of which says that people can come."""


@dataclass
class App:
    """A command that serves the app."""

    process: subprocess.Popen
    errors: Path
    """What it writes to stderr."""
    links: list[tuple[str, str]]
    """Names and links that it printed."""


@contextmanager
def started(command: Sequence[str], folder: Path) -> Iterator[App]:
    """Start a command in a folder, and give it to the block when people can come. It is ended behind the block.

    Args:
        command: The command.
        folder: Where it runs; out.txt and err.txt are what it prints.
    """
    out, errors = folder / "out.txt", folder / "err.txt"
    with out.open("w") as stdout, errors.open("w") as stderr:
        process = subprocess.Popen(command, cwd=folder, stdout=stdout, stderr=stderr)
    try:
        while not any(text in errors.read_text() for text in READY):
            assert process.poll() is None, errors.read_text()
            time.sleep(0.05)
        printed = (out.read_text() + errors.read_text()).splitlines()
        links = [(name, link) for name, _, link in (line.partition("  ") for line in printed) if "/join#" in link]
        yield App(process, errors, links)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(30)


@contextmanager
def client_of(link: str) -> Iterator[httpx.Client]:
    """Give a client to the block that is signed in, as a browser with this link is."""
    base, _, token = link.partition("/join#")
    with httpx.Client(base_url=base, headers={"Origin": base, "Sec-Fetch-Site": "same-origin"}) as client:
        assert client.post("/api/session", json={"token": token}).status_code == 200
        yield client
