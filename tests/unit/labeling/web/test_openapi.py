"""The description of the interface, held against what the app does by schemathesis, with all of its checks."""

from collections import Counter
from pathlib import Path

import pytest
import schemathesis
from schemathesis.engine import Status, events, from_schema

from support.labelling import HOST, OWN_SITE, invite, make_project, open_browser, plain_pairs
from tiltlm.labeling.web.app import create_app
from tiltlm.labeling.web.security import COOKIE, WRITES, WRONG_TOKENS

PHASES = {"coverage", "fuzzing", "stateful"}


@pytest.mark.slow
def test_the_app_does_as_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WRITES, "amount", 10**6)
    monkeypatch.setattr(WRONG_TOKENS, "amount", 10**6)
    project = make_project(tmp_path / "label.db", plain_pairs(20))
    app = create_app(project, hosts=[HOST])
    ann = open_browser(app, invite(project, "Ann"))
    # The session must outlive the call that ends it, or every later call would be refused alike.
    monkeypatch.setattr("tiltlm.labeling.web.api.sign_out", lambda *_: None)
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers={"Host": HOST})
    cookie = f"{COOKIE}={ann.client.cookies[COOKIE]}"
    schema.config.update(headers={"Host": HOST, "Cookie": cookie, **OWN_SITE})
    schema.config.seed = 0
    schema.config.generation.update(max_examples=15)
    finished, failures, statuses = {}, [], Counter[tuple[str, int]]()
    for one in from_schema(schema).execute():
        assert not isinstance(one, events.NonFatalError | events.FatalError), one
        if isinstance(one, events.PhaseFinished):
            finished[one.phase.name.value.lower()] = one.status
        if isinstance(one, events.ScenarioFinished):
            for case_id, interaction in one.recorder.interactions.items():
                if interaction.response is not None:
                    statuses[one.recorder.cases[case_id].value.operation.label, interaction.response.status_code] += 1
            for checks in one.recorder.checks.values():
                failures += [(one.label, check.failure_info.failure) for check in checks if check.failure_info]
    assert failures == []
    assert {name for name, status in finished.items() if status is Status.SUCCESS} >= PHASES
    seen = {(name.split()[-1], status) for name, status in statuses}
    assert {("/api/me", 200), ("/api/work", 200), ("/api/session", 200), ("/api/session", 401)} <= seen
    assert {("/api/votes", 409), ("/api/votes", 422), ("/api/undo", 409)} <= seen
    assert {("/api/items/{ticket}/diff", 200), ("/api/items/{ticket}/diff", 404)} & seen
    assert statuses.total() > 200


def test_every_refusal_is_described(tmp_path: Path) -> None:
    project = make_project(tmp_path / "label.db", plain_pairs(1))
    paths = create_app(project, hosts=[HOST]).openapi()["paths"]
    described = {
        f"{method} {path}": set(one["responses"]) for path, own in paths.items() for method, one in own.items()
    }
    assert described.keys() == {
        *("post /api/session", "delete /api/session", "get /api/me", "post /api/work", "post /api/votes"),
        *("post /api/undo", "get /api/items/{ticket}/diff"),
    }
    for name, statuses in described.items():
        assert {"200", "400", "401", "403", "429", "503"} <= statuses, name
        assert ("507" in statuses) == (not name.startswith("get ")), name
    assert {"409", "413", "422"} <= described["post /api/votes"]
    assert {"404", "413"} <= described["get /api/items/{ticket}/diff"]
