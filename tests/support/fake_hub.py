"""A hub on loopback that takes uploads as the real one does: repositories, LFS objects, one commit at a time."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

TOKEN = "hf_write"
OLD_UPLOAD = "ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning"
"""What httpx says of how huggingface_hub 2.4 uploads without xet."""


@dataclass
class Repository:
    is_private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    """Content of the last commit."""
    commits: list[str] = field(default_factory=list)
    """Their messages."""


@dataclass
class FakeHub:
    """What the hub holds, and how it behaves."""

    url: str = ""
    tokens: dict[str, set[str]] = field(default_factory=lambda: {TOKEN: {"user"}})
    """Token → owners in whose repositories it may write; empty: none."""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    """LFS objects by their hash."""
    faults: dict[str, int] = field(default_factory=dict)
    """Pattern of a method and a path → status to answer with; 0 closes the connection."""
    requests: list[str] = field(default_factory=list)
    """Method and path of each request."""


@contextmanager
def hub_in_place() -> Iterator[FakeHub]:
    """Serve a hub, and have `huggingface_hub` in this process talk to it with a token that may write."""
    from huggingface_hub import constants

    with pytest.MonkeyPatch.context() as patch, fake_hub() as found:
        patch.setenv("HF_TOKEN", TOKEN)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "ENDPOINT", found.url)
        yield found


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """Serve a hub until the block ends."""
    hub = FakeHub()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def do_GET(self):
        self.answer("GET")

    def do_POST(self):
        self.answer("POST")

    def do_PUT(self):
        self.answer("PUT")

    def answer(self, method: str) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        request = f"{method} {self.path}"
        self.hub.requests.append(request)
        for pattern, status in self.hub.faults.items():
            if re.search(pattern, request):
                if status:
                    self.send(status, {"error": "as the test asked"})
                else:
                    self.close_connection = True
                    self.connection.close()
                return
        owners = self.hub.tokens.get(self.headers.get("authorization", "").removeprefix("Bearer "))
        if method == "PUT":  # an LFS object: its address is secret, and so needs no token
            self.hub.objects[self.path.rpartition("/")[2]] = body
            self.send(200, {})
        elif owners is None:
            self.send(401, {"error": "Invalid user token."})
        else:
            self.send(*self.reply(request, body, owners))

    def reply(self, request: str, body: bytes, owners: set[str]) -> tuple[int, Any]:
        """Return status and JSON value of the answer."""
        hub = self.hub
        if request == "GET /api/whoami-v2":
            return 200, {"type": "user", "name": "user", "auth": {"accessToken": {"role": "write"}}}
        if request == "POST /api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if request == "POST /api/repos/create":
            given = json.loads(body)
            name = f"{given.get('organization') or 'user'}/{given['name']}"
            if name in hub.repositories:
                return 409, {"error": "You already created this model repo", "url": f"{hub.url}/{name}"}
            if name.split("/")[0] not in owners:
                return 403, {"error": "You don't have the rights to create a model under the namespace"}
            is_private = given.get("visibility") == "private" or bool(given.get("private"))
            hub.repositories[name] = Repository(is_private)
            return 200, {"url": f"{hub.url}/{name}", "name": name}
        found = re.fullmatch(r"\w+ (?:/api/models)?/(\w+/[\w.-]+?)(/.*|\.git/.*|)", request)
        repository = hub.repositories.get(found[1]) if found else None
        if found is None or repository is None:
            return 404, {"error": "Repository not found"}
        name, rest = found[1], found[2]
        if rest == "":
            return 200, self.described(name, repository)
        if name.split("/")[0] not in owners:
            return 403, {"error": "Forbidden"}
        if rest == "/auth-check/write":
            return 200, {}
        if rest == "/preupload/main":
            files = json.loads(body)["files"]
            modes = [{"path": f["path"], "shouldIgnore": False, "uploadMode": _mode(f["path"])} for f in files]
            return 200, {"files": modes}
        if rest == ".git/info/lfs/objects/batch":
            return 200, {"transfer": "basic", "objects": [self.lfs(one) for one in json.loads(body)["objects"]]}
        if rest == "/commit/main":
            return self.commit(name, repository, [json.loads(line) for line in body.splitlines()])
        return 404, {"error": f"{request} is not part of this hub"}

    def described(self, name: str, repository: Repository) -> dict[str, Any]:
        siblings = [{"rfilename": file} for file in repository.files]
        return {"id": name, "modelId": name, "sha": "0" * 40, "private": repository.is_private, "siblings": siblings}

    def lfs(self, one: dict[str, Any]) -> dict[str, Any]:
        """Say where to upload an object, or that it is there."""
        plain = {"oid": one["oid"], "size": one["size"]}
        if one["oid"] in self.hub.objects:
            return plain
        return {**plain, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}"}}}

    def commit(self, name: str, repository: Repository, lines: list[dict[str, Any]]) -> tuple[int, Any]:
        """Apply a commit, whole or not at all."""
        files = dict(repository.files)
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                content = self.hub.objects.get(value["oid"])
                if content is None or hashlib.sha256(content).hexdigest() != value["oid"]:
                    return 400, {"error": f"LFS object {value['oid']} is missing or differs"}
                files[value["path"]] = content
            elif line["key"] == "deletedFile":
                files.pop(value["path"])
            else:
                repository.commits.append(value["summary"])
        repository.files = files
        return 200, {"commitUrl": f"{self.hub.url}/{name}/commit/{'1' * 40}", "commitOid": "1" * 40}

    def send(self, status: int, value: Any) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


def _mode(path: str) -> str:
    return "lfs" if path.endswith((".safetensors", ".model")) else "regular"
