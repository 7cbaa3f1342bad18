"""A new database for each test, in SQLite and in PostgreSQL."""

import pytest

from support.label_databases import KINDS
from support.open_connections import closing_connections


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path) -> str:
    """The name of a database that has nothing yet."""
    if request.param == "sqlite":
        return str(tmp_path / "label.db")
    return request.getfixturevalue("postgres_server").new_database()


@pytest.fixture(autouse=True)
def closed_connections():
    with closing_connections():
        yield
