"""A new database for each test, whose connections are closed at the end."""

import pytest

from support.open_connections import closing_connections


@pytest.fixture(autouse=True)
def closed_connections():
    with closing_connections():
        yield


@pytest.fixture
def database(tmp_path) -> str:
    """Return the name of a database that is not there yet."""
    return str(tmp_path / "label.db")
