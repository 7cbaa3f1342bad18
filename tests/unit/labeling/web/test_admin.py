"""The pages of the admin and of adjudicators: who sees what, what a form does, what the record says."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from fastapi import FastAPI
from sqlalchemy import func, select

from support.label_crowd import cast
from support.labelling import HOST, OWN_SITE, Browser, invite, make_project, open_browser
from tiltlm.config.calls import label_export
from tiltlm.labeling.monitor.disputes import PAGE
from tiltlm.labeling.queue.chance import left_side
from tiltlm.labeling.store.database import reading, writing
from tiltlm.labeling.store.pairs import NewPair
from tiltlm.labeling.store.people import add_person, find_person
from tiltlm.labeling.store.projects import Project, read_guidelines
from tiltlm.labeling.store.tables import audit, event
from tiltlm.labeling.web.app import create_app

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"
GETS = ("/admin", "/admin/pairs", "/admin/pairs/1", "/admin/guidelines", "/admin/audit")
POSTS = ("/admin/people", "/admin/people/revoke", "/admin/guidelines", "/admin/export")


def pairs(num: int) -> list[NewPair]:
    return [
        NewPair(
            f"Question {n}? {EVIL}",
            f"The first answer to {n}. {EVIL}",
            f"Another answer to {n}.",
            key=f"secret-key-{n}{EVIL}",
            source=f"secret-source{EVIL}",
            models=(f"secret-one{EVIL}", "secret-two"),
            sampling=({"temperature": 0.123}, {}),
        )
        for n in range(num)
    ]


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A project of 6 pairs; two people disagree on all of them."""
    with make_project(tmp_path / "label.db", pairs(6), overlap=2, extra=0, title=f"Title {EVIL}") as made:
        with writing(made.engine) as connection:
            people = [add_person(connection, f"{name} {EVIL}") for name in ("ann", "bob")]
        for who, choice in zip(people, "ab", strict=True):
            cast(made, who, lambda given, choice=choice: {"choice": choice, "note": f"Because {EVIL}"})
        yield made


@pytest.fixture
def app(project: Project) -> FastAPI:
    return create_app(project, hosts=[HOST])


@pytest.fixture
def admin(app: FastAPI, project: Project) -> Browser:
    return open_browser(app, invite(project, "olga", "admin"))


@pytest.fixture
def judge(app: FastAPI, project: Project) -> Browser:
    return open_browser(app, invite(project, "jo", "adjudicator"))


def send(browser: Browser, path: str, headers: dict[str, str] | None = None, **fields: object):
    sent = {"Content-Type": "application/x-www-form-urlencoded", **(OWN_SITE if headers is None else headers)}
    return browser.client.post(path, content=urlencode(fields), headers=sent, follow_redirects=False)


def record(project: Project) -> list[tuple[str, str, dict]]:
    with reading(project.engine) as connection:
        found = connection.execute(select(audit.c.actor, audit.c.action, audit.c.detail).order_by(audit.c.id))
        return [(row.actor, row.action, json.loads(row.detail)) for row in found]


def num_decisions(project: Project) -> int:
    with reading(project.engine) as connection:
        wanted = select(func.count()).select_from(event).where(event.c.kind == "adjudicate")
        return connection.execute(wanted).scalar_one()


def test_roles(app, project, admin, judge):
    ann, nobody = open_browser(app, invite(project, "cho")), open_browser(app)
    for path in (*GETS, "/adjudicate", "/adjudicate/1"):
        for_judges = path.startswith("/adjudicate")
        for browser, status in ((admin, 200), (judge, 200 if for_judges else 403), (ann, 403), (nobody, 401)):
            assert browser.get(path).status_code == status, (path, browser.name)
    for path in (*POSTS, "/adjudicate"):
        assert send(ann, path, name="x", text="x").status_code == 403
        assert send(nobody, path, name="x", text="x").status_code == 401
        if path in POSTS:
            assert send(judge, path, name="x", text="x").status_code == 403
    assert record(project) == []


def test_forms_of_other_sites_do_nothing(project, admin):
    fields = {"name": "eve", "text": "evil", "pair": "1", "choice": "left", "key": "k" * 16}
    for path in (*POSTS, "/adjudicate"):
        for headers in ({}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://evil.test"}, {"Origin": "null"}):
            assert send(admin, path, headers, **fields).status_code == 403, (path, headers)
    assert record(project) == []
    assert num_decisions(project) == 0


def test_nothing_that_people_or_models_wrote_is_markup(project, admin, judge):
    send(admin, "/admin/guidelines", text=f"# Rules {EVIL}")
    send(judge, "/adjudicate", pair=1, choice="tie", key="k" * 16, note=EVIL)
    for browser, path in [*((admin, path) for path in GETS), (judge, "/adjudicate"), (judge, "/adjudicate/1")]:
        text = browser.get(path).text
        assert "alert(1)" in text, path
        assert "<script>alert" not in text, path
        assert "<img" not in text, path


def test_a_link_is_shown_once_and_works(app, project, admin):
    page = send(admin, "/admin/people", name=" new person ", role="annotator")
    assert page.status_code == 200
    (link,) = re.findall(r'value="(http://label\.test/join#[^"]+)"', page.text)
    assert open_browser(app, link.partition("#")[2]).name == "new person"
    token = link.partition("#")[2]
    assert record(project) == [("olga", "invite", {"name": "new person", "role": "annotator"})]
    for path in GETS:
        assert token not in admin.get(path).text
    with reading(project.engine) as connection:
        assert find_person(connection, "new person").role == "annotator"


def test_a_new_link_ends_the_old_one(app, project, admin):
    old = open_browser(app, invite(project, "cho"))
    assert send(admin, "/admin/people", name="cho", role="annotator").status_code == 200
    assert old.get("/api/me").status_code == 401


def test_revoking_ends_sessions(app, project, admin):
    cho = open_browser(app, invite(project, "cho"))
    answer = send(admin, "/admin/people/revoke", name="cho")
    assert (answer.status_code, answer.headers["location"]) == (303, "/admin?done=revoked#people")
    assert cho.get("/api/me").status_code == 401
    assert record(project) == [("olga", "revoke", {"name": "cho"})]
    assert send(admin, "/admin/people/revoke", name="nobody").status_code == 400


@pytest.mark.parametrize(
    ("path", "fields", "code"),
    [
        ("/admin/people", {"name": "olga", "role": "admin"}, "own_link"),
        ("/admin/people/revoke", {"name": "olga"}, "own_link"),
        ("/admin/people", {"name": "jo", "role": "admin"}, "other_role"),
        ("/admin/people", {"name": "x", "role": "owner"}, "unknown_name"),
        ("/admin/people", {"name": "  ", "role": "admin"}, "bad_name"),
        ("/admin/people", {"name": "x\u202ey"}, "bad_name"),
        ("/admin/people", {}, "bad_form"),
        ("/admin/guidelines", {"text": "  "}, "not_in_range"),
        ("/admin/guidelines", {"text": "x" * 200_001}, "not_in_range"),
        ("/adjudicate", {"pair": "1", "choice": "a", "key": "k" * 16}, "bad_form"),
        ("/adjudicate", {"pair": "-1", "choice": "left", "key": "k" * 16}, "bad_form"),
        ("/adjudicate", {"pair": "²", "choice": "left", "key": "k" * 16}, "bad_form"),
        ("/adjudicate", {"pair": "1", "choice": "left", "key": "k"}, "bad_form"),
        ("/adjudicate", {"pair": "1", "choice": "left"}, "bad_form"),
        ("/adjudicate", {"pair": "999", "choice": "left", "key": "k" * 16}, "not_found"),
        ("/adjudicate", {"pair": "9" * 30, "choice": "left", "key": "k" * 16}, "bad_form"),
    ],
)
def test_refused_forms_change_nothing(project, admin, judge, path, fields, code):
    before = read(project)
    answer = send(admin, path, **fields)
    assert answer.status_code in (400, 404)
    assert answer.json()["error"]["code"] == code
    assert read(project) == before
    assert admin.get("/admin").status_code == 200  # still signed in


def read(project: Project) -> tuple:
    with reading(project.engine) as connection:
        return record(project), num_decisions(project), read_guidelines(connection)


def test_what_is_no_form_is_refused(admin):
    headers = {**OWN_SITE, "Content-Type": "application/x-www-form-urlencoded"}
    for body in (b"\xff\xfe", b"a=%ff", b"&".join(b"a=1" for _ in range(100))):
        assert admin.client.post("/admin/people", content=body, headers=headers).status_code == 400


def test_guidelines_get_a_version(project, admin):
    answer = send(admin, "/admin/guidelines", text="Be kind.\r\nBe right.")
    assert answer.headers["location"] == "/admin/guidelines?done=2"
    with reading(project.engine) as connection:
        assert read_guidelines(connection) == (2, "Be kind.\nBe right.")
    assert send(admin, "/admin/guidelines", text="Be kind.\nBe right.").headers["location"].endswith("=same")
    assert record(project) == [("olga", "guidelines", {"version": 2})]
    assert "Be kind." in admin.get("/admin/guidelines").text


def test_an_adjudicator_decides_by_side(project, judge):
    with reading(project.engine) as connection:
        jo = find_person(connection, "jo")
    for n, (side, pair_id) in enumerate((("left", 1), ("right", 2), ("tie", 3))):
        answer = send(judge, "/adjudicate", pair=pair_id, choice=side, key=f"request-{n}", note=" why ")
        assert (answer.status_code, answer.headers["location"]) == (303, f"/adjudicate?done={pair_id}")
        left = left_side(project.secret, pair_id, jo.id)
        expected = "tie" if side == "tie" else left if side == "left" else {"a": "b", "b": "a"}[left]
        with reading(project.engine) as connection:
            decided = connection.execute(select(event).order_by(event.c.id.desc()).limit(1)).one()
        assert (decided.pair_id, decided.choice, decided.note) == (pair_id, expected, "why")
        assert record(project)[-1][:2] == ("jo", "adjudicate")
    assert "3 undecided" in judge.get("/adjudicate").text


def test_a_decision_that_is_sent_twice_is_one(project, judge):
    for _ in range(2):
        assert send(judge, "/adjudicate", pair=1, choice="tie", key="the same request").status_code == 303
    assert num_decisions(project) == 1
    assert len(record(project)) == 1
    assert send(judge, "/adjudicate", pair=2, choice="tie", key="the same request").status_code == 409


def test_gold_is_not_decided(tmp_path):
    gold = NewPair("p", "a", "b", key="gold", kind="gold", answer="a")
    with make_project(tmp_path / "label.db", [gold]) as made:
        browser = open_browser(create_app(made, hosts=[HOST]), invite(made, "jo", "adjudicator"))
        assert send(browser, "/adjudicate", pair=1, choice="left", key="k" * 16).status_code == 404
        assert browser.get("/adjudicate/1").status_code == 404


def test_an_adjudicator_is_blind(judge):
    text = judge.get("/adjudicate").text + judge.get("/adjudicate/2").text
    for secret in ("secret-key", "secret-source", "secret-one", "secret-two", "0.123", "ann &lt;", "bob &lt;"):
        assert secret not in text
    assert "annotator-" in text


def test_later_passes_over_a_pair(judge):
    shown = [re.search(r'name="pair" value="(\d+)"', judge.get(f"/adjudicate?after={n}").text) for n in range(7)]
    assert len({one[1] for one in shown[:6]}) == 6
    assert shown[6] is None


def test_pairs_are_paged_and_narrowed(tmp_path):
    with make_project(tmp_path / "label.db", pairs(PAGE + 3)) as made:
        admin = open_browser(create_app(made, hosts=[HOST]), invite(made, "olga", "admin"))
        rows = [
            admin.get(f"/admin/pairs?sort=key&page={page}").text.count('<tr><th scope="row">') for page in (1, 2, 3)
        ]
        assert rows == [PAGE, 3, 0]
        assert admin.get("/admin/pairs?text=secret-key-1%3C").text.count('<tr><th scope="row">') == 1
        assert admin.get("/admin/pairs?model=%27%20OR%201=1").text.count('<tr><th scope="row">') == 0
        assert "page=2" in admin.get("/admin/pairs?sort=nonsense").text
        for bad in ("page=0", "page=x", f"page={10**9}"):
            assert admin.get(f"/admin/pairs?{bad}").status_code == 422
        assert admin.get("/admin/pairs/99").status_code == 404
        assert admin.get(f"/admin/pairs/{2**80}").status_code == 404


def test_numbers_are_of_now(project, admin):
    assert "0 decided" in admin.get("/admin").text
    send(admin, "/adjudicate", pair=1, choice="tie", key="k" * 16)
    assert "1 decided" in admin.get("/admin").text


def test_an_empty_project_has_all_pages(tmp_path):
    with make_project(tmp_path / "label.db", []) as made:
        admin = open_browser(create_app(made, hosts=[HOST]), invite(made, "olga", "admin"))
        for path in ("/admin", "/admin/pairs", "/admin/guidelines", "/admin/audit", "/adjudicate"):
            assert admin.get(path).status_code == 200, path


def test_characters_that_a_database_cannot_hold(database):
    with make_project(database, pairs(2)) as made:
        admin = open_browser(create_app(made, hosts=[HOST]), invite(made, "olga", "admin"))
        query = urlencode(dict.fromkeys(("text", "source", "model", "kind"), "x\x00y"))
        assert "0 pairs" in admin.get(f"/admin/pairs?{query}").text
        assert send(admin, "/adjudicate", pair=1, choice="tie", key="k" * 16, note="a\0note").status_code == 303
        assert send(admin, "/admin/guidelines", text="new\0rules").status_code == 303
        assert send(admin, "/admin/people", name="x\0y").status_code == 200  # U+FFFD can be seen
        for path in (*GETS, "/adjudicate/1"):
            assert admin.get(path).status_code == 200, path


def test_texts_that_html_cannot_hold(tmp_path):
    odd = NewPair("\ud800 \0 \u202e", "a\udfff", "b", key="odd \udc00", source="\ud800")
    with make_project(tmp_path / "label.db", [odd]) as made:
        admin = open_browser(create_app(made, hosts=[HOST]), invite(made, "olga", "admin"))
        for path in ("/admin/pairs", "/admin/pairs/1", "/adjudicate/1"):
            assert admin.get(path).status_code == 200, path


@pytest.mark.parametrize("options", [{}, {"rule": "majority"}, {"votes": True}, {"pseudonyms": True, "votes": True}])
def test_a_download_is_the_export_of_the_command(project, admin, tmp_path, options):
    fields = {name: value for name, value in options.items() if name == "rule"}
    fields |= {"what": "votes"} if options.get("votes") else {}
    fields |= {"pseudonyms": "true"} if options.get("pseudonyms") else {}
    answer = send(admin, "/admin/export", **fields)
    name = "votes.jsonl" if options.get("votes") else "labels.jsonl"
    assert answer.headers["content-disposition"] == f'attachment; filename="{name}"'
    label_export(tmp_path / "out.jsonl", database=str(tmp_path / "label.db"), **options)
    assert answer.content == (tmp_path / "out.jsonl").read_bytes()
    assert [(actor, action) for actor, action, _ in record(project)] == [("olga", "export"), ("command line", "export")]
    assert ("ann" in answer.text.replace("annotator", "")) == (name == "votes.jsonl" and "pseudonyms" not in options)


@pytest.mark.parametrize(
    "fields", [{"rule": "best"}, {"ties": "x"}, {"min_votes": "0"}, {"min_votes": "x"}, {"min_votes": "9"}]
)
def test_a_download_that_cannot_be_is_refused(project, admin, fields):
    assert send(admin, "/admin/export", **fields).status_code == 400
    assert record(project) == []
