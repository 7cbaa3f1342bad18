import hashlib
from types import SimpleNamespace

import pytest
from sqlalchemy import select

from support.errors import raises
from support.label_databases import new_project
from tiltlm.core.errors import ConfigError, DataError
from tiltlm.labeling.store import people
from tiltlm.labeling.store.audit import COMMAND_LINE, write_audit
from tiltlm.labeling.store.database import reading, writing
from tiltlm.labeling.store.people import (
    add_person,
    find_person,
    list_people,
    new_token,
    person_of_cookie,
    pseudonym,
    revoke,
    sign_in,
    sign_out,
)
from tiltlm.labeling.store.tables import audit, metadata, person, session


@pytest.fixture
def project(database):
    return new_project(database, 1)[0]


def cookie_of(project, token):
    with writing(project.engine) as connection:
        found = sign_in(connection, token)
    return None if found is None else found[1]


def who_has(project, cookie):
    with reading(project.engine) as connection:
        found = person_of_cookie(connection, cookie)
    return None if found is None else found.name


def link_of(project, name):
    with writing(project.engine) as connection:
        return new_token(connection, add_person(connection, name))


def test_neither_tokens_nor_cookies_are_in_the_database(project):
    token = link_of(project, "ann")
    cookie = cookie_of(project, token)
    assert len(token) == len(cookie) == 43  # 256 bits
    with reading(project.engine) as connection:
        texts = [repr(connection.execute(select(table)).all()) for table in metadata.sorted_tables]
        stored = connection.execute(select(person.c.token_sha256).where(person.c.name == "ann")).scalar()
    assert not any(token in text or cookie in text for text in texts)
    assert stored == hashlib.sha256(token.encode()).hexdigest()


def test_a_link_opens_sessions_until_there_is_a_new_one(project):
    old = link_of(project, "ann")
    first, second = cookie_of(project, old), cookie_of(project, old)
    assert first != second
    assert who_has(project, first) == who_has(project, second) == "ann"
    new = link_of(project, "ann")
    assert who_has(project, first) is None
    assert who_has(project, second) is None
    assert cookie_of(project, old) is None
    assert who_has(project, cookie_of(project, new)) == "ann"


def test_revoked(project):
    token, other = link_of(project, "ann"), link_of(project, "bob")
    cookie, kept = cookie_of(project, token), cookie_of(project, other)
    with writing(project.engine) as connection:
        assert revoke(connection, "ann").name == "ann"
        found = find_person(connection, "ann")
    assert (found.is_active, found.has_link) == (False, False)
    assert who_has(project, cookie) is None
    assert cookie_of(project, token) is None
    assert who_has(project, kept) == "bob"
    again = link_of(project, "ann")
    assert who_has(project, cookie_of(project, again)) == "ann"


def test_nobody_of_this_name(project):
    with (
        raises(DataError, "unknown_name", key="NAME", mentions=["ann, bob, cho"]),
        writing(project.engine) as connection,
    ):
        revoke(connection, "dan")


def test_one_session_ends(project):
    token = link_of(project, "ann")
    first, second = cookie_of(project, token), cookie_of(project, token)
    with writing(project.engine) as connection:
        sign_out(connection, first)
    assert who_has(project, first) is None
    assert who_has(project, second) == "ann"


def test_old_sessions_end_and_are_removed(project, monkeypatch):
    clock = SimpleNamespace(time=1e9)
    monkeypatch.setattr(people, "now", lambda: clock.time)
    token = link_of(project, "ann")
    cookie = cookie_of(project, token)
    clock.time += people.SESSION_SECONDS - 1
    assert who_has(project, cookie) == "ann"
    clock.time += 2
    assert who_has(project, cookie) is None
    cookie_of(project, token)
    with reading(project.engine) as connection:
        assert len(connection.execute(select(session)).all()) == 1


@pytest.mark.parametrize("secret", ["", "x", "\x00", "\ud800", "a" * 10_000, "' OR 1=1 --"])
def test_what_is_no_token(project, secret):
    link_of(project, "ann")
    assert cookie_of(project, secret) is None
    assert who_has(project, secret) is None


@pytest.mark.parametrize("name", ["", "  ", "a" * 81, "a\nb", "a\x00", "a\u202eb", "a\u200b", "\ud800", "\x85"])
def test_names_that_cannot_be_used(project, name):
    with raises(ConfigError, "bad_name", key="NAME"), writing(project.engine) as connection:
        add_person(connection, name)


@pytest.mark.parametrize("name", ["Zoë", "李雷", "O'Brien; DROP TABLE person", "=SUM(A1)", "<b>ann</b>"])
def test_names_that_can(project, name):
    with writing(project.engine) as connection:
        added = add_person(connection, f" {name} ")
        assert find_person(connection, name) == added
        assert add_person(connection, name) == added
        assert [one.name for one in list_people(connection)].count(name) == 1


def test_roles(project):
    with writing(project.engine) as connection:
        assert add_person(connection, "ann").role == "annotator"
        assert add_person(connection, "ann", "admin").role == "admin"
        with raises(ConfigError, "unknown_name", key="--role", mentions=["adjudicator"]):
            add_person(connection, "ann", "adjudicater")


def test_pseudonyms():
    names = {pseudonym(b"s" * 32, k) for k in range(1000)}
    assert len(names) == 1000
    assert pseudonym(b"s" * 32, 7) == pseudonym(b"s" * 32, 7)
    assert pseudonym(b"t" * 32, 7) != pseudonym(b"s" * 32, 7)
    assert pseudonym(b"s" * 32, 7).startswith("annotator-")


def test_the_record(project):
    with writing(project.engine) as connection:
        write_audit(connection, COMMAND_LINE, "invite", name="ann", role="annotator")
        (row,) = connection.execute(select(audit)).all()
    assert (row.actor, row.action, row.detail) == (COMMAND_LINE, "invite", '{"name": "ann", "role": "annotator"}')
