"""Labelling in the terminal: the project, the person and the end. The app itself does not run."""

import json

import pytest

from support.errors import raises
from support.label_databases import new_project
from tiltlm import label_tui
from tiltlm.core import ConfigError, DataError, RunError
from tiltlm.labeling.store.database import reading
from tiltlm.labeling.store.people import find_person
from tiltlm.labeling.store.projects import open_project
from tiltlm.labeling.terminal.app import LabelApp, Outcome
from tiltlm.recipes.labeling import extra, terminal
from tiltlm.recipes.labeling.preparing import count_pairs
from tiltlm.recipes.labeling.terminal import label_here


@pytest.fixture
def database(tmp_path) -> str:
    return str(tmp_path / "label.db")


@pytest.fixture
def pairs(tmp_path) -> str:
    words = ("apples and pears", "the sea at night", "bread with butter", "a long way home")
    rows = [{"prompt": f"question {k}", "chosen": words[k], "rejected": words[k + 2]} for k in range(2)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def ended(monkeypatch) -> list[LabelApp]:
    """Let the app end at once, as if 2 votes had been given."""
    started = []

    def run(app):
        started.append(app)
        return Outcome(num_votes=2, num_undone=1, num_left=1)

    monkeypatch.setattr(terminal, "has_terminal", lambda: True)
    monkeypatch.setattr(LabelApp, "run", run)
    return started


def test_a_new_project_asks_for_one_vote_on_each_pair(database, pairs, ended):
    sitting = label_here([pairs], database, "ann")
    assert (sitting.name, sitting.num_votes, sitting.num_left) == ("ann", 2, 1)
    assert sitting.summary() == f"ann: 2 votes, 1 taken back, 1 pair left; saved in {database}"
    with open_project(database) as project:
        assert (project.settings.overlap, project.settings.extra) == (1, 0)
        assert count_pairs(project) == {"task": 2}
        with reading(project.engine) as connection:
            assert find_person(connection, "ann").role == "annotator"


def test_a_known_project_keeps_its_settings_and_gets_new_pairs(database, pairs, ended):
    new_project(database, 3, overlap=4)[0].close()
    label_here([], database, "ann")
    label_here([pairs], database, "ann")
    with open_project(database) as project:
        assert project.settings.overlap == 4
        assert count_pairs(project) == {"task": 5}


def test_the_name_is_that_of_the_account(database, ended, monkeypatch):
    new_project(database, 3)[0].close()
    monkeypatch.setattr(terminal.getpass, "getuser", lambda: "dora")
    assert label_here([], database, None).name == "dora"

    def no_name():
        raise OSError("no such account")

    monkeypatch.setattr(terminal.getpass, "getuser", no_name)
    with raises(ConfigError, "missing_value", key="--as"):
        label_here([], database, None)


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(extra, "PACKAGES", ("sqlalchemy", "no_such_package"))
    with raises(ConfigError, "missing_package", mentions=["no_such_package", "pip install 'tiltlm[label]'"]):
        label_tui()


def test_errors(database, ended, monkeypatch):
    with raises(DataError, "no_such_path"):
        label_here([], database, "ann")
    new_project(database, 3)[0].close()
    with raises(ConfigError, "bad_name"):
        label_here([], database, "a\x1bb")
    assert ended == []
    monkeypatch.setattr(LabelApp, "run", lambda app: None)
    with raises(RunError, "app_failed"):
        label_here([], database, "ann")

    def refused(app):
        app.failure = ConfigError("revoked", code="revoked")

    monkeypatch.setattr(LabelApp, "run", refused)
    with raises(ConfigError, "revoked"):
        label_here([], database, "ann")
