"""One call at a time in a thread, while training goes on."""

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread


class Background:
    """A thread for at most one call. Its error is raised by `wait`."""

    def __init__(self) -> None:
        self._running: Future[None] | None = None

    @property
    def is_busy(self) -> bool:
        """True from `start` until `wait`, even if the call has ended meanwhile."""
        return self._running is not None

    @property
    def has_ended(self) -> bool:
        """True if the call that was started has ended, with or without an error."""
        return self._running is not None and self._running.done()

    def start(self, act: Callable[[], None]) -> None:
        """Begin a call; the one before must have been waited for.

        The thread does not keep the process alive: what it leaves is what a kill would leave.
        """
        assert self._running is None, "one call at a time"
        running: Future[None] = Future()
        self._running = running

        def run() -> None:
            try:
                act()
            except BaseException as error:  # raised by `wait`
                running.set_exception(error)
            else:
                running.set_result(None)

        Thread(target=run, name="checkpoint", daemon=True).start()

    def wait(self) -> None:
        """Wait for the end of the call, if there is one, and raise its error."""
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def settle(self) -> None:
        """Wait for the end of the call without raising its error, which `wait` still raises."""
        if self._running is not None:
            self._running.exception()
