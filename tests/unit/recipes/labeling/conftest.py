"""A new database for each test, whose connections are closed at the end."""

import pytest
from sqlalchemy import event
from sqlalchemy.pool import Pool


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


@pytest.fixture
def database(tmp_path) -> str:
    """Return the name of a database that is not there yet."""
    return str(tmp_path / "label.db")
