"""Letting the writers of one process go one after the other, in the order in which they came.

SQLite lets a writer that must wait ask again and again, with longer and longer pauses. With ten busy writers in a
process some were refused after five seconds, while others wrote hundreds of times.
"""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from tiltlm.core.errors import RunError


class Turns:
    """A lock that is given in the order in which it was asked for."""

    def __init__(self) -> None:
        self._own = threading.Lock()
        self._is_taken = False
        self._waiting: deque[threading.Lock] = deque()

    @contextmanager
    def turn(self, seconds: float) -> Iterator[None]:
        """Wait for the turn of the caller.

        Args:
            seconds: How long to wait.

        Raises:
            RunError: `busy`: the turn did not come.
        """
        if not self._acquire(seconds):
            raise RunError(
                f"the database was busy for {seconds:g} seconds, and nothing was written; try again", code="busy"
            )
        try:
            yield
        finally:
            self._release()

    def _acquire(self, seconds: float) -> bool:
        with self._own:
            if not self._is_taken:
                self._is_taken = True
                return True
            gate = threading.Lock()
            gate.acquire()
            self._waiting.append(gate)
        if gate.acquire(timeout=seconds):
            return True
        with self._own:
            if gate not in self._waiting:
                return True  # the turn came just now
            self._waiting.remove(gate)
            return False

    def _release(self) -> None:
        with self._own:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._is_taken = False
