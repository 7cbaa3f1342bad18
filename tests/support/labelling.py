"""A labelling project, its people, and its app without a network."""

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from fastapi import FastAPI
from starlette.testclient import TestClient

from tiltlm.labeling.project import ProjectSettings
from tiltlm.labeling.store.database import writing
from tiltlm.labeling.store.pairs import NewPair, add_pairs
from tiltlm.labeling.store.people import add_person, new_token
from tiltlm.labeling.store.projects import Project, create_project

HOST = "label.test"
OWN_SITE = {"Sec-Fetch-Site": "same-origin"}
"""What a browser adds to a request from a page of the app."""


def make_project(database: object, pairs: Sequence[NewPair], **settings: Any) -> Project:
    """Return a new project with these pairs; without repeats and gold, unless the settings name them."""
    chosen = ProjectSettings(**{"gold_share": 0.0, "repeat_share": 0.0, **settings})
    project = create_project(str(database), chosen)
    with writing(project.engine) as connection:
        add_pairs(connection, chosen, pairs)
    return project


def plain_pairs(num: int) -> list[NewPair]:
    """Return pairs of short texts."""
    return [
        NewPair(
            prompt=f"Question {n}?",
            a=f"The first answer to {n}.",
            b=f"Another answer to {n}.",
            key=f"secret-key-{n}",
            source="secret-source",
            models=("secret-model-one", "secret-model-two"),
            sampling=({"temperature": 0.123}, {"temperature": 0.456}),
        )
        for n in range(num)
    ]


def invite(project: Project, name: str, role: str = "annotator") -> str:
    """Add a person, and return the token of their link."""
    with writing(project.engine) as connection:
        return new_token(connection, add_person(connection, name, role))


@dataclass
class Browser:
    """Somebody who uses the interface as the page does."""

    client: httpx.Client
    name: str = ""

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def key(self) -> str:
        """Return a new key of a request."""
        return str(uuid.uuid4())

    def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        """Send a write."""
        headers = {**OWN_SITE, "Content-Type": "application/json", **options.pop("headers", {})}
        return self.client.post(path, content=json.dumps(body if body is not None else {}), headers=headers, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        """Send a read."""
        return self.client.get(path, headers=OWN_SITE, **options)

    def sign_in(self, token: str) -> httpx.Response:
        """Open a private link."""
        return self.post("/api/session", {"token": token})

    def work(self) -> list[dict[str, Any]]:
        """Return the pairs to work on."""
        answered = self.post("/api/work")
        assert answered.status_code == 200, answered.text
        items: list[dict[str, Any]] = answered.json()["items"]
        return items

    def vote(self, item: dict[str, Any], choice: str = "left", **more: Any) -> httpx.Response:
        """Vote on a pair."""
        return self.post("/api/votes", {"ticket": item["ticket"], "key": self.key(), "choice": choice, **more})


def open_browser(app: FastAPI, token: str | None = None, host: str = HOST) -> Browser:
    """Return somebody at the app, signed in if there is a token."""
    browser = Browser(TestClient(app, base_url=f"http://{host}", raise_server_exceptions=False))
    if token is not None:
        answered = browser.sign_in(token)
        assert answered.status_code == 200, answered.text
        browser.name = answered.json()["name"]
    return browser
