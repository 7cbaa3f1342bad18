"""A browser for each module: while one runs, no other event loop can run in this thread."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from support.browsers import chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start Chromium, or skip the test where there is none."""
    with chromium() as found:
        yield found
