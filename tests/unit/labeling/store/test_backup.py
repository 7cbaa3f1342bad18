import sqlite3
import threading
from contextlib import closing

import pytest
from sqlalchemy import func, select

from support.errors import raises
from support.label_databases import new_pairs, new_project
from tiltlm.core.errors import ConfigError, DataError
from tiltlm.labeling.project import ProjectSettings
from tiltlm.labeling.queue.assignments import take
from tiltlm.labeling.queue.ballots import Ballot, adjudicate, undo, vote
from tiltlm.labeling.store.audit import write_audit
from tiltlm.labeling.store.backup import back_up, restore
from tiltlm.labeling.store.database import reading, writing
from tiltlm.labeling.store.pairs import add_pairs
from tiltlm.labeling.store.people import add_person, new_token, sign_in
from tiltlm.labeling.store.projects import add_guidelines, create_project, open_project
from tiltlm.labeling.store.tables import audit, event, metadata


def used_project(database: str) -> str:
    """Make a project in which everything happened once, and return somebody's token."""
    project, (ann, bob, _) = new_project(database, 6, gold=1, title="Which one?", seed=7)
    with project, writing(project.engine) as connection:
        boss = add_person(connection, "boss", "admin")
        token = new_token(connection, ann)
        sign_in(connection, token)
        for who in (ann, bob):
            for one in take(connection, project, who, limit=3):
                vote(connection, project, who, Ballot(one.ticket, f"{who.id} {one.pair_id}", "left", note="ünïcode"))
        undo(connection, project, ann, "undo")
        adjudicate(connection, boss, 1, "tie", key="decision")
        add_guidelines(connection, "Other guidelines.")
        write_audit(connection, "boss", "export", rows=3)
    return token


def contents(database: str) -> dict[str, list]:
    with open_project(database) as project, reading(project.engine) as connection:
        return {
            table.name: sorted(map(tuple, connection.execute(select(table))), key=repr)
            for table in metadata.sorted_tables
        }


def votes_on(database: str, token: str) -> None:
    """Go on in a restored project: links, ids and sides are what they were."""
    with open_project(database) as project, writing(project.engine) as connection:
        before = connection.execute(select(func.max(event.c.id))).scalar_one()
        found = sign_in(connection, token)
        assert found is not None
        ann, _ = found
        for one in take(connection, project, ann):
            counted = vote(connection, project, ann, Ballot(one.ticket, f"again {one.pair_id}", "right"))
            assert counted.event_id > before
        add_person(connection, "new")
        add_pairs(connection, project.settings, new_pairs(2, start=100))
        add_guidelines(connection, "Newer guidelines.")
        write_audit(connection, "new", "invite")
        assert len(connection.execute(select(audit)).all()) == 2


@pytest.fixture
def other(database, request, tmp_path):
    """A second new database, of the other kind."""
    if database.startswith("postgresql"):
        return str(tmp_path / "other.db")
    return request.getfixturevalue("postgres_server").new_database()


def test_there_and_back(database, other, tmp_path):
    token = used_project(database)
    before = contents(database)
    assert all(before.values())
    copy = back_up(database, tmp_path / "copies" / "first.db")
    assert {one.name for one in copy.parent.iterdir()} == {"first.db"}  # one file, and nothing left beside it
    restore(copy, other)
    assert contents(other) == before
    votes_on(other, token)
    second = back_up(other, tmp_path / "second.db")
    assert contents(str(second)) == contents(other)
    votes_on(database, token)


def test_a_file_from_a_file(tmp_path):
    token = used_project(str(tmp_path / "label.db"))
    copy = back_up(str(tmp_path / "label.db"), tmp_path / "copy.db")
    bytes_before = copy.read_bytes()
    restore(copy, str(tmp_path / "again.db"))
    assert copy.read_bytes() == bytes_before
    assert contents(str(tmp_path / "again.db")) == contents(str(tmp_path / "label.db"))
    with open_project(str(tmp_path / "again.db")) as project, reading(project.engine) as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    votes_on(str(tmp_path / "again.db"), token)


def test_while_people_vote(database, tmp_path):
    """Each copy is one state: the counts of pairs are those of its events."""
    project, people = new_project(database, 60, overlap=3, repeat_share=0)
    copies, done = [], threading.Event()

    def work(who) -> None:
        for number in range(1000):
            with writing(project.engine) as connection:
                found = take(connection, project, who)
                if not found:
                    return
                vote(connection, project, who, Ballot(found[0].ticket, str(number), "left"))

    def copy() -> None:
        while not done.is_set() or len(copies) < 2:
            copies.append(back_up(database, tmp_path / f"copy {len(copies)}.db"))

    copier = threading.Thread(target=copy)
    workers = [threading.Thread(target=work, args=(who,)) for who in people]
    for thread in (copier, *workers):
        thread.start()
    for thread in workers:
        thread.join()
    done.set()
    copier.join()
    sizes = []
    for one in copies:
        with closing(sqlite3.connect(one)) as connection:
            (num,) = connection.execute("SELECT count(*) FROM event").fetchone()
            (counted,) = connection.execute("SELECT sum(votes_a + votes_b + votes_tie) FROM pair").fetchone()
            (given,) = connection.execute("SELECT count(*) FROM assignment WHERE event_id IS NOT NULL").fetchone()
            assert num == counted == given
            sizes.append(num)
    assert sizes == sorted(sizes)
    with reading(project.engine) as connection:
        assert connection.execute(select(func.count()).select_from(event)).scalar() == 180


def test_an_existing_file_is_kept(database, tmp_path):
    new_project(database)[0].close()
    (tmp_path / "copy.db").write_text("mine")
    with raises(DataError, "output_exists"):
        back_up(database, tmp_path / "copy.db")
    assert (tmp_path / "copy.db").read_text() == "mine"


def test_only_into_an_empty_database(database, tmp_path):
    new_project(database)[0].close()
    copy = back_up(database, tmp_path / "copy.db")
    with raises(DataError, "output_exists", key="database"):
        restore(copy, database)


def test_a_log_of_another_database_is_not_applied(tmp_path):
    new_project(tmp_path / "label.db")[0].close()
    copy = back_up(str(tmp_path / "label.db"), tmp_path / "copy.db")
    (tmp_path / "new.db-wal").write_bytes(b"left over")
    with raises(DataError, "output_exists", mentions=["new.db-wal"]):
        restore(copy, str(tmp_path / "new.db"))


def test_a_damaged_file(tmp_path):
    new_project(tmp_path / "label.db", 300)[0].close()
    copy = back_up(str(tmp_path / "label.db"), tmp_path / "copy.db")
    found = bytearray(copy.read_bytes())
    found[-40_000:-20_000] = b"\xff" * 20_000
    copy.write_bytes(found)
    for use in (lambda: restore(copy, str(tmp_path / "new.db")), lambda: back_up(str(copy), tmp_path / "again.db")):
        with raises(DataError, "damaged"):
            use()
    assert {one.name for one in tmp_path.iterdir()} == {"label.db", "copy.db"}


def test_what_is_no_backup(database, tmp_path):
    (tmp_path / "text.db").write_text("a text of more than sixteen bytes\n" * 100)
    create_project(str(tmp_path / "real.db"), ProjectSettings()).close()
    with raises(DataError, "damaged"):
        restore(tmp_path / "text.db", database)
    with raises(DataError, "no_such_path"):
        restore(tmp_path / "none.db", database)
    with closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        connection.execute("CREATE TABLE t (x)")
    with raises(DataError, "not_a_label_database"):
        restore(tmp_path / "other.db", database)
    restore(tmp_path / "real.db", database)


def test_a_folder_that_cannot_be_written(tmp_path):
    new_project(tmp_path / "label.db")[0].close()
    (tmp_path / "file").write_text("")
    with raises(ConfigError, "not_writable"):
        back_up(str(tmp_path / "label.db"), tmp_path / "file" / "copy.db")
