import json
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import select

from support.errors import events, raises
from support.label_databases import new_project
from tiltlm.core.errors import RunError
from tiltlm.labeling.queue.assignments import take
from tiltlm.labeling.queue.ballots import Ballot, undo, vote
from tiltlm.labeling.store import journal
from tiltlm.labeling.store.backup import back_up, restore
from tiltlm.labeling.store.database import reading, writing
from tiltlm.labeling.store.journal import JournalWriter, catch_up, journal_path
from tiltlm.labeling.store.projects import Project, open_project
from tiltlm.labeling.store.tables import event


@pytest.fixture
def opened(tmp_path):
    project, people = new_project(tmp_path / "label.db", 200, repeat_share=0)
    yield project, people
    project.close()


def votes(project, who, num=1, key="") -> None:
    for k in range(num):
        with writing(project.engine) as connection:
            (one,) = take(connection, project, who, limit=1)
            vote(connection, project, who, Ballot(one.ticket, f"{key}{who.id}-{one.pair_id}-{k}", "left", note="n\n1"))


def lines(project: Project) -> list[dict]:
    path = journal_path(project)
    assert path is not None
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]


def all_ids(project) -> list[int]:
    with reading(project.engine) as connection:
        return [row.id for row in connection.execute(select(event.c.id).order_by(event.c.id))]


def test_every_event_is_a_line(opened, tmp_path):
    project, (ann, bob, _) = opened
    votes(project, ann, 2)
    assert catch_up(project) == 2
    votes(project, bob)
    with writing(project.engine) as connection:
        undo(connection, project, bob, "back")
    assert catch_up(project) == 2
    assert catch_up(project) == 0
    found = lines(project)
    assert [one["id"] for one in found] == all_ids(project)
    assert [(one["kind"], one["person"]) for one in found] == [
        ("vote", "ann"),
        ("vote", "ann"),
        ("vote", "bob"),
        ("undo", "bob"),
    ]
    assert found[3]["undoes"] == found[2]["id"]
    assert found[0]["pair"].startswith("task ")
    assert found[0]["note"] == "n\n1"
    assert journal_path(project) == tmp_path / "label.events.jsonl"


@pytest.mark.parametrize("cut", [1, 20, 10**6])
def test_a_line_that_was_cut_off_is_written_again(opened, cut):
    project, (ann, *_) = opened
    votes(project, ann, 3)
    catch_up(project)
    path = journal_path(project)
    whole = path.read_bytes()
    path.write_bytes(whole[: max(0, len(whole) - cut)])
    catch_up(project)
    assert path.read_bytes() == whole


def test_lines_longer_than_a_block(opened, monkeypatch):
    monkeypatch.setattr(journal, "BLOCK", 7)
    project, (ann, *_) = opened
    votes(project, ann, 3)
    assert catch_up(project) == 3
    votes(project, ann, 1, key="more ")
    assert catch_up(project) == 1
    assert [one["id"] for one in lines(project)] == all_ids(project)


def test_a_journal_of_before_a_restore_is_put_aside(opened, tmp_path, caplog):
    project, (ann, *_) = opened
    votes(project, ann, 2)
    copy = back_up(str(tmp_path / "label.db"), tmp_path / "copy.db")
    votes(project, ann, 2, key="lost ")
    catch_up(project)
    lost = journal_path(project).read_bytes()
    project.close()
    for end in ("", "-wal", "-shm"):
        (tmp_path / f"label.db{end}").unlink(missing_ok=True)
    restore(copy, str(tmp_path / "label.db"))
    with open_project(str(tmp_path / "label.db")) as again:
        votes(again, ann, 3, key="new ")
        assert catch_up(again) == 5
        assert [one["id"] for one in lines(again)] == all_ids(again)
    assert (tmp_path / "label.events.1.jsonl").read_bytes() == lost
    assert len(events(caplog, "other_journal")) == 1


@pytest.mark.parametrize("text", ["no json\n", "[1]\n", '{"id": 1}\n', "\n"])
def test_a_file_of_something_else_is_put_aside(opened, text, tmp_path):
    project, (ann, *_) = opened
    votes(project, ann)
    journal_path(project).write_text(text)
    assert catch_up(project) == 1
    assert len(lines(project)) == 1
    assert (tmp_path / "label.events.1.jsonl").read_text() == text


def test_threads_write_each_line_once(opened):
    project, people = opened

    def work(who) -> None:
        for _ in range(30):
            votes(project, who)
            catch_up(project)

    threads = [threading.Thread(target=work, args=(who,)) for who in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one["id"] for one in lines(project)] == all_ids(project)
    assert len(all_ids(project)) == 90


def test_the_thread_writes_and_ends(opened):
    project, (ann, *_) = opened
    votes(project, ann)
    with JournalWriter(project) as writer:
        votes(project, ann)
        writer.wake()
    assert [one["id"] for one in lines(project)] == all_ids(project)


def test_a_vote_just_before_the_end_is_written(opened, monkeypatch):
    project, (ann, *_) = opened
    real, calls, has_voted = journal.catch_up, [], threading.Event()

    def slow(project) -> int:
        num = real(project)
        calls.append(num)
        if len(calls) == 1:  # all that follows comes while the thread writes
            votes(project, ann)
            writer._ends = True
            writer.wake()
            has_voted.set()
        return num

    monkeypatch.setattr(journal, "catch_up", slow)
    writer = JournalWriter(project)
    with writer:
        assert has_voted.wait(30)
    assert [one["id"] for one in lines(project)] == all_ids(project) == [1]


def test_a_journal_that_cannot_be_written_fails_no_vote(opened, caplog):
    project, (ann, *_) = opened
    journal_path(project).mkdir()
    with raises(RunError, "not_writable"):
        catch_up(project)
    with JournalWriter(project):
        votes(project, ann)
    assert events(caplog, "journal_failed")
    journal_path(project).rmdir()
    assert catch_up(project) == 1


FULL = """
import resource, sys
from tiltlm.core.errors import RunError
from tiltlm.labeling.store.journal import catch_up, journal_path
from tiltlm.labeling.store.projects import open_project

with open_project(sys.argv[1]) as project:
    path = journal_path(project)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 150, resource.RLIM_INFINITY))
    before = path.read_bytes()
    try:
        catch_up(project)
    except RunError as error:
        assert error.code == "not_writable"
    assert path.read_bytes() == before
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(catch_up(project))
"""


def test_a_full_disk_leaves_no_half_line(opened, tmp_path):
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    project, (ann, *_) = opened
    votes(project, ann, 2)
    catch_up(project)
    votes(project, ann, 4, key="more ")
    call = [sys.executable, "-c", FULL, str(tmp_path / "label.db")]
    ended = subprocess.run(call, capture_output=True, text=True, check=True)
    assert ended.stdout == "4\n"
    assert [one["id"] for one in lines(project)] == all_ids(project)


def test_postgres_has_none(postgres_server):
    project, (ann, *_) = new_project(postgres_server.new_database())
    votes(project, ann)
    assert journal_path(project) is None
    assert catch_up(project) == 0


def test_the_name_of_the_file(tmp_path):
    project, _ = new_project(tmp_path / "my.labels")
    assert journal_path(project) == Path(tmp_path / "my.events.jsonl")
