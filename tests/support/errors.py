"""Assertions on the stable names of errors and log records, so that messages can be reworded freely."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from tiltlm.core.errors import TiltError


@contextmanager
def raises(
    kind: type[TiltError],
    code: str,
    *,
    key: str | None = None,
    row: str | None = None,
    mentions: Sequence[str] = (),
) -> Iterator[pytest.ExceptionInfo[TiltError]]:
    """Expect an error with this code and, where given, this key and row.

    Args:
        kind: Its class.
        code: Its `code`.
        key: Its `key`; None: any.
        row: Its `row`; None: any.
        mentions: What the message must contain: values, paths, settings and options. Never prose.
    """
    with pytest.raises(kind) as caught:
        yield caught
    error = caught.value
    assert error.code == code, f"{error.code!r}: {error}"
    assert key is None or error.key == key, f"{error.key!r}: {error}"
    assert row is None or error.row == row, f"{error.row!r}: {error}"
    for text in mentions:
        assert text in str(error), f"{text!r} is missing from: {error}"


def events(caplog: pytest.LogCaptureFixture, name: str) -> list[Any]:
    """Return the log records whose `event` is `name`; their facts are attributes."""
    return [record for record in caplog.records if getattr(record, "event", None) == name]


def has_event(caplog: pytest.LogCaptureFixture, name: str, level: int = logging.NOTSET, **facts: object) -> bool:
    """Return whether a record of this event was logged at `level` or above with these facts."""
    return any(
        record.levelno >= level and all(getattr(record, k) == v for k, v in facts.items())
        for record in events(caplog, name)
    )
