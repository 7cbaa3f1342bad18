"""Connections to databases that code under test leaves open."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import event
from sqlalchemy.pool import Pool


@contextmanager
def closing_connections() -> Iterator[None]:
    """Close what a block leaves open: a connection that is deleted while it is open is a warning, so an error."""
    made = []

    def remember(connection, record) -> None:
        made.append(connection)

    event.listen(Pool, "connect", remember)
    yield
    event.remove(Pool, "connect", remember)
    for connection in made:
        connection.close()
