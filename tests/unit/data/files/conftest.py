"""What tests of files share."""

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest


@pytest.fixture
def peak_memory() -> Callable[[], AbstractContextManager[Callable[[], int]]]:
    """Return a block whose value returns the most bytes of Python objects that were in memory at once inside it."""

    @contextmanager
    def measured() -> Iterator[Callable[[], int]]:
        tracemalloc.start()
        try:
            yield lambda: peak[0]
            peak.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()

    peak: list[int] = []
    return measured
