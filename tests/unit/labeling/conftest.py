"""A new database for each test, in SQLite and in PostgreSQL."""

import pytest
from sqlalchemy import event
from sqlalchemy.pool import Pool

from support.label_databases import KINDS


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path) -> str:
    """The name of a database that has nothing yet."""
    if request.param == "sqlite":
        return str(tmp_path / "label.db")
    return request.getfixturevalue("postgres_server").new_database()


@pytest.fixture(autouse=True)
def closed_connections():
    """Close what a test leaves open: a connection that is deleted while it is open is a warning, so an error."""
    made = []

    def remember(connection, record) -> None:
        made.append(connection)

    event.listen(Pool, "connect", remember)
    yield
    event.remove(Pool, "connect", remember)
    for connection in made:
        connection.close()
