import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, delete, inspect, select, text, update
from sqlalchemy.exc import DBAPIError

from support.errors import raises
from support.label_databases import new_project
from tiltlm.core.errors import DataError
from tiltlm.labeling.project import ProjectSettings
from tiltlm.labeling.queue.assignments import take
from tiltlm.labeling.queue.ballots import Ballot, vote
from tiltlm.labeling.store import revisions
from tiltlm.labeling.store.audit import write_audit
from tiltlm.labeling.store.database import connect, reading, writing
from tiltlm.labeling.store.projects import create_project, has_project, open_project
from tiltlm.labeling.store.tables import VERSION_TABLE, audit, event, metadata

SECOND = '''
"""A later revision, for tests."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade():
    op.create_table("later", sa.Column("id", sa.Integer(), primary_key=True))
'''


@pytest.fixture
def later(tmp_path, monkeypatch):
    """A version of tiltlm that has one revision more."""
    folder = tmp_path / "migrations"
    shutil.copytree(revisions.FOLDER, folder)
    (folder / "versions" / "v0002.py").write_text(SECOND)

    def install() -> None:
        monkeypatch.setattr(revisions, "FOLDER", folder)

    return install


def index_of(found) -> tuple[str, ...]:
    options = {key: str(value) for key, value in found.get("dialect_options", {}).items()}
    names = ("column_names", "expressions", "unique", "column_sorting")
    return found["name"], *(str(found.get(name)) for name in names), str(options)


def tables_of(engine) -> dict[str, object]:
    """Return all that an inspector says about the tables, without those of Alembic."""
    found = inspect(engine)
    names = sorted(set(found.get_table_names()) - {VERSION_TABLE})
    return {
        name: {
            "columns": [{**column, "type": str(column["type"])} for column in found.get_columns(name)],
            "checks": sorted((c["name"], c["sqltext"]) for c in found.get_check_constraints(name)),
            "uniques": sorted((u["name"], u["column_names"]) for u in found.get_unique_constraints(name)),
            "keys": sorted((f["name"], f["constrained_columns"]) for f in found.get_foreign_keys(name)),
            "primary": found.get_pk_constraint(name),
            "indexes": sorted(index_of(index) for index in found.get_indexes(name)),
        }
        for name in names
    }


def test_tables_are_what_the_code_says(database, tmp_path, request):
    project, _ = new_project(database)
    with project.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, metadata) == []
    if project.engine.dialect.name == "sqlite":
        straight = connect(str(tmp_path / "straight.db"))
    else:
        straight = connect(request.getfixturevalue("postgres_server").new_database())
    metadata.create_all(straight)
    assert tables_of(project.engine) == tables_of(straight)
    assert set(tables_of(straight)) == set(metadata.tables)
    straight.dispose()


@pytest.mark.parametrize("table", [event, audit], ids=str)
def test_the_record_only_grows(database, table):
    project, (ann, *_) = new_project(database)
    with writing(project.engine) as connection:
        write_audit(connection, "ann", "invite")
        (first, *_) = take(connection, project, ann)
        vote(connection, project, ann, Ballot(first.ticket, "k1", "left"))
    changed = {"key": "other"} if table is event else {"actor": "other"}
    for statement in (update(table).values(changed), delete(table)):
        with pytest.raises(DBAPIError, match="only grows"), writing(project.engine) as connection:
            connection.execute(statement)
    with reading(project.engine) as connection:
        assert len(connection.execute(select(table)).all()) == 1


def test_a_second_project_is_refused(database):
    new_project(database)
    assert has_project(database)
    with raises(DataError, "output_exists", key="database"):
        create_project(database, ProjectSettings())


def test_two_that_make_a_project_at_once(database):
    failed = []

    def make() -> None:
        try:
            create_project(database, ProjectSettings())
        except DataError as error:
            failed.append(error.code)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == ["output_exists"] * 3
    assert open_project(database).settings == ProjectSettings()


def test_a_database_of_something_else(database):
    engine = connect(database)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE project (id INTEGER)"))
    engine.dispose()
    for use in (open_project, has_project, lambda name: create_project(name, ProjectSettings())):
        with raises(DataError, "not_a_label_database", key="database"):
            use(database)


def test_an_empty_database(database):
    connect(database).connect().close()  # makes the SQLite file
    assert not has_project(database)
    with raises(DataError, "not_a_label_database", key="database"):
        open_project(database)
    assert create_project(database, ProjectSettings()).settings.overlap == 2


def test_no_file(tmp_path):
    assert not has_project(str(tmp_path / "label.db"))
    with raises(DataError, "no_such_path", key="database"):
        open_project(str(tmp_path / "label.db"))
    assert not (tmp_path / "label.db").exists()


def test_an_older_database_is_brought_up_by_one_process(database, later):
    new_project(database)
    later()
    opened: list[object] = []
    threads = [threading.Thread(target=lambda: opened.append(open_project(database))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 4
    engine = opened[0].engine  # type: ignore[attr-defined]
    with reading(engine) as connection:
        assert revisions.find_revision(connection) == "0002"
    assert "later" in inspect(engine).get_table_names()


def test_an_older_file_is_copied_first(tmp_path, later):
    file = tmp_path / "label.db"
    new_project(file)
    later()
    open_project(str(file))
    with closing(sqlite3.connect(tmp_path / "label.db.0001")) as copy:
        assert copy.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchall() == [("0001",)]
        assert copy.execute("SELECT count(*) FROM pair").fetchall() == [(5,)]
    before = (tmp_path / "label.db.0001").stat().st_mtime_ns
    open_project(str(file))
    assert (tmp_path / "label.db.0001").stat().st_mtime_ns == before


def test_a_change_that_fails_changes_nothing(database, later, tmp_path):
    new_project(database)
    later()
    broken = Path(revisions.FOLDER) / "versions" / "v0002.py"
    broken.write_text(SECOND + "    op.execute('SELECT 1 FROM no_such_table')\n")
    with pytest.raises(DBAPIError):
        open_project(database)
    engine = connect(database)
    with reading(engine) as connection:
        assert revisions.find_revision(connection) == "0001"
    assert "later" not in inspect(engine).get_table_names()


def test_a_newer_database_is_refused(database, later, monkeypatch):
    own = revisions.FOLDER
    later()
    new_project(database)
    monkeypatch.setattr(revisions, "FOLDER", own)
    with raises(DataError, "newer_version", key="database", mentions=["0002"]):
        open_project(database)


def test_migrations_need_no_ini_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    create_project("label.db", ProjectSettings())
    with create_engine(f"sqlite:///{tmp_path}/label.db").connect() as connection:
        assert revisions.find_revision(connection) == revisions.newest_revision()
