"""What can go wrong with a database: each fault has an error that says what to do, and no half vote stays."""

import sqlite3
import subprocess
import sys
import threading
from contextlib import closing

import psycopg
import pytest
from sqlalchemy import event as listening
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError

from support.errors import raises
from support.label_databases import check_queue, new_pairs, new_project
from tiltlm.core.errors import ConfigError, DataError, RunError
from tiltlm.labeling.project import ProjectSettings
from tiltlm.labeling.queue.assignments import take
from tiltlm.labeling.queue.ballots import Ballot, vote
from tiltlm.labeling.store import database as opening
from tiltlm.labeling.store.database import (
    DiskFull,
    address_of,
    connect,
    file_system,
    own_error,
    reading,
    shown,
    storable,
    writing,
)
from tiltlm.labeling.store.pairs import add_pairs
from tiltlm.labeling.store.projects import create_project, open_project
from tiltlm.labeling.store.tables import event, person


def test_full(tmp_path):
    project, (ann, *_) = new_project(tmp_path / "label.db", 3)
    with writing(project.engine) as connection:
        (given, *_) = take(connection, project, ann)
    limit = "PRAGMA max_page_count=1"  # SQLite takes the present size in place of less

    def vote_now() -> None:
        with writing(project.engine) as connection:
            vote(connection, project, ann, Ballot(given.ticket, "key", "left", note="😀" * 4000))

    listening.listen(project.engine, "connect", lambda connection, _: connection.execute(limit))
    project.engine.dispose()
    with raises(DiskFull, "disk_full", mentions=[str(tmp_path / "label.db")]):
        for number in range(100):  # until the last page is full
            with writing(project.engine) as connection:
                add_pairs(connection, project.settings, new_pairs(1, start=100 + number))
    with raises(DiskFull, "disk_full"):
        vote_now()
    assert check_queue(project)["vote"] == 0
    limit = "PRAGMA max_page_count=1000000"
    project.engine.dispose()
    vote_now()
    assert check_queue(project)["vote"] == 1


LIMITED = """
import resource, sys
from pathlib import Path
from tiltlm.labeling.queue.assignments import take
from tiltlm.labeling.queue.ballots import Ballot, vote
from tiltlm.labeling.store.database import DiskFull, writing
from tiltlm.labeling.store.people import find_person
from tiltlm.labeling.store.projects import open_project

counted = 0
with open_project(sys.argv[1]) as project:
    with writing(project.engine) as connection:
        ann = find_person(connection, "ann")
        take(connection, project, ann)
    size = Path(sys.argv[1] + "-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 200_000, resource.RLIM_INFINITY))
    try:
        while True:
            with writing(project.engine) as connection:
                given = take(connection, project, ann)[0]
                vote(connection, project, ann, Ballot(given.ticket, f"key {counted}", "left", note="n" * 4000))
            counted += 1
    except DiskFull:
        print("full")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    with writing(project.engine) as connection:
        given = take(connection, project, ann)[0]
        counted += vote(connection, project, ann, Ballot(given.ticket, f"key {counted}", "left")).is_new
print(counted)
"""


def test_a_file_that_may_not_grow(tmp_path):
    """The system refuses to write, as on a disk that is full: the votes before are there, and later ones count."""
    project, _ = new_project(tmp_path / "label.db", 200, overlap=1, repeat_share=0)
    call = [sys.executable, "-c", LIMITED, str(tmp_path / "label.db")]
    ended = subprocess.run(call, capture_output=True, text=True)
    assert ended.stderr == ""
    full, counted = ended.stdout.split()
    assert full == "full"
    assert check_queue(project)["vote"] == int(counted) > 3


def test_locked_by_another_program(tmp_path, monkeypatch):
    project, _ = new_project(tmp_path / "label.db", 1)
    monkeypatch.setattr(opening, "BUSY_MS", 60)
    with closing(sqlite3.connect(tmp_path / "label.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with raises(RunError, "busy"), writing(project.engine):
            pytest.fail("it is locked")
        with reading(project.engine) as connection:  # who reads does not wait
            assert connection.execute(select(func.count()).select_from(person)).scalar() == 3
    with writing(project.engine) as connection:
        add_pairs(connection, project.settings, new_pairs(1, start=9))


def test_a_writer_waits_for_another_one(tmp_path):
    project, _ = new_project(tmp_path / "label.db", 1)
    with closing(sqlite3.connect(tmp_path / "label.db", isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(0.2, lambda: other.execute("COMMIT"))
        timer.start()
        with writing(project.engine) as connection:
            add_pairs(connection, project.settings, new_pairs(1, start=9))
        timer.join()


def test_no_sqlite_file(tmp_path):
    file = tmp_path / "label.db"
    file.write_text("prompt,chosen,rejected\n" * 100)
    before = file.read_bytes()
    with raises(DataError, "damaged", key="database", mentions=[str(file)]):
        open_project(str(file))
    with raises(DataError, "damaged", key="database"):
        create_project(str(file), ProjectSettings())
    assert file.read_bytes() == before


def test_a_file_of_another_program_is_left_as_it_is(tmp_path):
    file = tmp_path / "photos.db"
    with closing(sqlite3.connect(file)) as other:
        other.execute("CREATE TABLE photo (name)")
    before = file.read_bytes()
    with raises(DataError, "not_a_label_database", mentions=["photo"]):
        open_project(str(file))
    with raises(DataError, "not_a_label_database"):
        create_project(str(file), ProjectSettings())
    assert file.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["photos.db"]


def test_a_file_that_was_cut(tmp_path):
    file = tmp_path / "label.db"
    with new_project(file, 400)[0]:
        pass
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    file.write_bytes(file.read_bytes()[: 20 * 4096])
    with (
        raises(DataError, "damaged", key="database"),
        open_project(str(file)) as project,
        reading(project.engine) as connection,
    ):
        for table in ("pair", "response"):
            connection.execute(text(f"SELECT * FROM {table}")).all()


def test_a_folder_in_place_of_the_file(tmp_path):
    with raises(ConfigError, "not_writable", key="database", mentions=[str(tmp_path)]):
        create_project(str(tmp_path), ProjectSettings())
    with raises(ConfigError, "not_writable", key="database"):
        create_project(str(tmp_path / "no such folder" / "label.db"), ProjectSettings())


def test_a_file_that_may_only_be_read(tmp_path):
    """A real error of SQLite; rights themselves do not hold for root."""
    project, _ = new_project(tmp_path / "label.db")
    project.close()
    with (
        closing(sqlite3.connect(f"file:{tmp_path}/label.db?mode=ro", uri=True)) as connection,
        pytest.raises(sqlite3.OperationalError) as caught,
    ):
        connection.execute("DELETE FROM session")
    found = own_error(caught.value, "label.db")
    assert isinstance(found, ConfigError)
    assert found.code == "not_writable"


def test_a_mistake_in_a_statement_stays_what_it_is(database):
    project, _ = new_project(database)
    with pytest.raises(DBAPIError), reading(project.engine) as connection:
        connection.execute(text("SELECT no_such_column FROM pair"))


def test_messages_have_no_values_of_a_request(tmp_path):
    project, (ann, *_) = new_project(tmp_path / "label.db")
    with pytest.raises(DBAPIError) as caught, writing(project.engine) as connection:
        connection.execute(person.insert().values(id=ann.id, name="private note", role="annotator", is_active=True))
    assert "private note" not in str(caught.value)


def test_a_reader_sees_one_state(database):
    project, _ = new_project(database, 1)
    with reading(project.engine) as connection:
        wanted = text("SELECT count(*) FROM pair")
        assert connection.execute(wanted).scalar() == 1
        with writing(project.engine) as other:
            add_pairs(other, project.settings, new_pairs(3, start=5))
        assert connection.execute(wanted).scalar() == 1
    with reading(project.engine) as connection:
        assert connection.execute(wanted).scalar() == 4


def test_a_network_file_system_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "file_system", lambda path: "nfs4")
    with raises(ConfigError, "network_file_system", key="database", mentions=["nfs4"]):
        connect(str(tmp_path / "label.db"))


def test_the_kind_of_a_file_system(tmp_path):
    assert file_system(tmp_path / "label.db") not in opening.NETWORK


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("postgres://u:p@h/d", "postgresql+psycopg://u:p@h/d"),
        ("postgresql://u@h/d?x=1", "postgresql+psycopg://u@h/d?x=1"),
        ("/somewhere/label.db", "sqlite:////somewhere/label.db"),
    ],
)
def test_addresses(name, address):
    assert address_of(name) == address


def test_other_servers_are_refused():
    with raises(ConfigError, "unknown_name", key="database"):
        address_of("mysql://user:secret@host/name")


def test_passwords_are_not_shown():
    assert shown("postgresql://ann:secret@host/labels") == "postgresql://ann:…@host/labels"
    assert shown("label.db") == "label.db"


def test_text_that_databases_cannot_hold():
    assert storable("a\x00b\ud800c\udfff😀") == "a\ufffdb\ufffdc\ufffd😀"


def test_a_server_that_is_away():
    with raises(RunError, "unreachable", mentions=["127.0.0.1"]) as caught:
        open_project("postgresql://ann:secret@127.0.0.1:1/labels")
    assert "secret" not in str(caught.value)


def test_a_database_that_the_server_does_not_have(postgres_server):
    name = postgres_server.new_database()
    with raises(RunError, "unreachable", mentions=["nothing_here"]):
        open_project(name.replace("/postgres?", "/nothing_here?"))


def test_a_server_that_goes_away_and_comes_back(postgres_server):
    name = postgres_server.new_database()
    project, (ann, *_) = new_project(name)
    with raises(RunError, "unreachable"), writing(project.engine) as connection:
        found = take(connection, project, ann)
        with psycopg.connect(name, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        vote(connection, project, ann, Ballot(found[0].ticket, "key", "left"))
    with writing(project.engine) as connection:  # a new connection, and nothing of the request before
        assert connection.execute(select(func.count()).select_from(event)).scalar() == 0
        (first, *_) = take(connection, project, ann)
        vote(connection, project, ann, Ballot(first.ticket, "key", "left"))
    assert check_queue(project)["vote"] == 1


def test_a_lock_of_another_client(postgres_server, monkeypatch):
    monkeypatch.setattr(opening, "BUSY_MS", 60)
    name = postgres_server.new_database()
    project, (ann, *_) = new_project(name)
    with psycopg.connect(name) as other:
        other.execute("SELECT * FROM person WHERE id = %s FOR UPDATE", [ann.id])
        with raises(RunError, "busy"), writing(project.engine) as connection:
            take(connection, project, ann)
    with writing(project.engine) as connection:
        assert take(connection, project, ann)
