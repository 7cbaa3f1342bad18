"""What every request and answer passes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from support.errors import has_event
from support.labelling import HOST, OWN_SITE, Browser, invite, make_project, open_browser, plain_pairs
from tiltlm.labeling.store.projects import Project
from tiltlm.labeling.web.app import create_app
from tiltlm.labeling.web.guard import MAX_BODY
from tiltlm.labeling.web.security import COOKIE


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = make_project(tmp_path / "label.db", plain_pairs(3), overlap=1)
    yield made
    made.engine.dispose()


@pytest.fixture
def app(project: Project) -> FastAPI:
    return create_app(project, hosts=[HOST, "127.0.0.1:8765", "[::1]"])


@pytest.fixture
def ann(app: FastAPI, project: Project) -> Browser:
    return open_browser(app, invite(project, "Ann"))


def code_of(answer: Any) -> str:
    return str(answer.json()["error"]["code"])


@pytest.mark.parametrize("path", ["/", "/join", "/api/me", "/static/style.css", "/nowhere", "/openapi.json"])
def test_every_answer_has_the_headers(app: FastAPI, path: str) -> None:
    headers = open_browser(app).get(path).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["img-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["form-action"] == "'self'"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-opener-policy"] == headers["cross-origin-resource-policy"] == "same-origin"
    assert "camera=()" in headers["permissions-policy"]
    assert headers["cache-control"] == ("no-cache" if path.startswith("/static/") else "no-store")
    assert "strict-transport-security" not in headers
    assert "server" not in headers


def test_https_is_kept(project: Project) -> None:
    app = create_app(project, hosts=[HOST], secure=True)
    browser = Browser(TestClient(app, base_url=f"https://{HOST}"))
    answer = browser.sign_in(invite(project, "Ann"))
    assert answer.headers["strict-transport-security"].startswith("max-age=3")
    assert "secure" in answer.headers["set-cookie"].lower()


@pytest.mark.parametrize("host", [HOST, f"{HOST}:1234", "LABEL.TEST", "127.0.0.1:8765", "[::1]:80", "[::1]"])
def test_the_app_answers_under_its_names(app: FastAPI, host: str) -> None:
    assert open_browser(app).client.get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.test", f"{HOST}.evil.test", f"evil.test:{HOST}", "127.0.0.1", "127.0.0.1:8766", "", "[::2]"]
)
def test_the_app_does_not_answer_under_another_name(app: FastAPI, host: str) -> None:
    answer = open_browser(app).client.get("/", headers={"Host": host})
    assert (answer.status_code, code_of(answer)) == (400, "unknown_host")
    assert "content-security-policy" in answer.headers


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": f"http://{HOST}"},
    ],
)
def test_a_write_from_the_app_counts(ann: Browser, headers: dict[str, str]) -> None:
    assert ann.client.post("/api/work", content="{}", headers={**JSON, **headers}).status_code == 200


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Origin": f"http://{HOST}"},
        {"Origin": "null"},
        {"Origin": f"https://{HOST}"},
        {"Origin": f"http://{HOST}:81"},
        {"Origin": f"http://{HOST}.evil.test"},
        {"Origin": "http://evil.test", "Referer": f"http://{HOST}/"},
    ],
)
def test_a_write_from_elsewhere_changes_nothing(ann: Browser, headers: dict[str, str]) -> None:
    item = ann.work()[0]
    body = json.dumps({"ticket": item["ticket"], "key": "from-elsewhere", "choice": "left"})
    answer = ann.client.post("/api/votes", content=body, headers={**JSON, **headers})
    assert (answer.status_code, code_of(answer)) == (403, "cross_site")
    assert ann.client.delete("/api/session", headers=headers).status_code == 403
    assert ann.work()[0] == item
    assert ann.post("/api/undo", {"key": ann.key()}).status_code == 409


def test_a_large_body_is_refused(ann: Browser) -> None:
    answer = ann.client.post("/api/work", content=b" " * (MAX_BODY + 1), headers={**JSON, **OWN_SITE})
    assert (answer.status_code, code_of(answer)) == (413, "too_large")
    assert ann.client.post("/api/work", content=b"{}" + b" " * (MAX_BODY - 2), headers={**JSON, **OWN_SITE}).is_success


def test_a_large_body_without_a_length_is_refused(ann: Browser) -> None:
    """Sent in chunks; a wrong length does not help either."""

    def chunks() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * 2**16

    request = ann.client.build_request("POST", "/api/work", content=chunks(), headers={**JSON, **OWN_SITE})
    assert "content-length" not in request.headers
    answer = ann.client.send(request)
    assert (answer.status_code, code_of(answer)) == (413, "too_large")


def test_a_report_of_the_content_policy_is_kept(app: FastAPI, caplog: pytest.LogCaptureFixture) -> None:
    client = open_browser(app).client
    assert not app.state.csp_reports
    for _ in range(70):
        assert client.post("/api/csp-report", content=b'{"csp-report": "\n\x1b' + b"x" * 9000).status_code == 200
    assert len(app.state.csp_reports) == 20
    assert max(map(len, app.state.csp_reports)) <= 2000
    assert has_event(caplog, "csp_report")
    assert sum(getattr(record, "event", "") == "csp_report" for record in caplog.records) == 60
    assert not any("\x1b" in record.getMessage() for record in caplog.records)


def test_an_unexpected_error_tells_nothing(
    ann: Browser, app: FastAPI, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("the inner secret")

    monkeypatch.setattr("tiltlm.labeling.web.api.take_work", fail)
    answer = ann.post("/api/work")
    assert (answer.status_code, code_of(answer)) == (500, "internal")
    assert "secret" not in answer.text
    assert "content-security-policy" in answer.headers
    assert has_event(caplog, "server_error")


def test_forwarded_headers_are_not_believed(app: FastAPI, project: Project) -> None:
    """Otherwise a wrong token would count for any address that a client invents."""
    client = open_browser(app).client
    for n in range(20):
        headers = {**JSON, **OWN_SITE, "X-Forwarded-For": f"10.0.0.{n}", "X-Forwarded-Host": "evil.test"}
        assert client.post("/api/session", content='{"token": "wrong"}', headers=headers).status_code == 401
    assert client.post("/api/session", content='{"token": "wrong"}', headers=headers).status_code == 429


def test_the_cookie_is_for_this_app_only(app: FastAPI, project: Project) -> None:
    browser = open_browser(app)
    answer = browser.sign_in(invite(project, "Ann"))
    parts = {part.strip().lower() for part in answer.headers["set-cookie"].split(";")[1:]}
    assert {"httponly", "samesite=strict", "path=/"} <= parts
    assert not any(part.startswith("domain") for part in parts)
    assert browser.client.cookies[COOKIE] not in answer.text
