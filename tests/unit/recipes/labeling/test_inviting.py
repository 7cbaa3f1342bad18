"""Private links from the command line."""

import pytest

from support.errors import raises
from tiltlm.core import ConfigError, DataError
from tiltlm.labeling.project import ProjectSettings
from tiltlm.labeling.store.database import reading
from tiltlm.labeling.store.people import find_person, sign_in
from tiltlm.labeling.store.projects import create_project, open_project
from tiltlm.recipes.labeling.inviting import check_address, invite


@pytest.fixture
def database(database) -> str:
    create_project(database, ProjectSettings())
    return database


def person_of(database: str, link: str):
    with open_project(database).engine.begin() as connection:
        found = sign_in(connection, link.partition("#")[2])
        return found and found[0]


def test_a_link_signs_in_and_a_new_one_ends_it(database):
    first = invite(database, " ann ", address="https://label.example.org/")
    assert first.link.startswith("https://label.example.org/join#")
    assert person_of(database, first.link).name == "ann"
    second = invite(database, "ann")
    assert second.link.startswith("http://127.0.0.1:8765/join#")
    assert person_of(database, first.link) is None
    assert person_of(database, second.link).name == "ann"


def test_a_known_person_keeps_their_role(database):
    assert invite(database, "cleo", role="adjudicator").role == "adjudicator"
    assert invite(database, "cleo").role == "adjudicator"
    assert invite(database, "cleo", role="annotator").role == "annotator"


def test_a_revoked_link_signs_nobody_in(database):
    link = invite(database, "ann").link
    ended = invite(database, "ann", is_revoked=True)
    assert ended.link is None
    assert person_of(database, link) is None
    with reading(open_project(database).engine) as connection:
        assert not find_person(connection, "ann").has_link


def test_errors(database, tmp_path):
    with raises(DataError, "unknown_name", key="NAME"):
        invite(database, "nobody", is_revoked=True)
    with raises(ConfigError, "no_effect", key="--revoke"):
        invite(database, "ann", role="admin", is_revoked=True)
    with raises(ConfigError, "bad_name", key="NAME"):
        invite(database, "a\u202eb")
    with raises(DataError, "no_such_path", key="database"):
        invite(str(tmp_path / "none.db"), "ann")


@pytest.mark.parametrize("address", ["label.example.org", "ftp://a", "https://a/b", "https://u@a", "http://"])
def test_what_is_no_address_of_the_app(address):
    with raises(ConfigError, "bad_address", key="--address"):
        check_address(address)
