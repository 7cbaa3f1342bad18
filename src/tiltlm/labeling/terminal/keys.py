"""What protects votes from keys that were not meant, and measures how long a pair was looked at."""

import math
import time
from collections.abc import Callable

MIN_SHOWN = 0.15
"""Seconds that a pair must have been on the screen before a key counts: nobody reads faster."""
HOLD = 0.7
"""Seconds after a choice in which the same one does not count again. A key that is held begins to repeat within it."""
REPEAT = 0.15
"""Seconds between two presses of a key that is held, at most."""

Clock = Callable[[], float]


class KeyGuard:
    """A rule that a key counts once, however long it is held.

    A terminal says what was pressed, but never that a key was released.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        """Make a rule.

        Args:
            clock: Returns the time in seconds.
        """
        self.clock = clock
        self._shown = clock()
        self._pressed: dict[str, float] = {}
        self._last, self._last_at = "", -math.inf

    def show(self) -> None:
        """Note that another pair is on the screen now."""
        self._shown = self.clock()

    def counts(self, key: str, *, is_vote: bool = True, is_second: bool = False) -> bool:
        """Note that a key was pressed, and return True if it counts.

        Args:
            key: The key.
            is_vote: It says something about the pair on the screen.
            is_second: It is the second key of a vote, which may be the same as the first.
        """
        now = self.clock()
        before = self._pressed.get(key, -math.inf)
        self._pressed[key] = now
        is_held = now - before < REPEAT or (not is_second and key == self._last and now - self._last_at < HOLD)
        if is_held or (is_vote and now - self._shown < MIN_SHOWN):
            return False
        self._last, self._last_at = key, now
        return True


class Stopwatch:
    """The time for which a pair was in front of a person."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        """Start at zero.

        Args:
            clock: Returns the time in seconds.
        """
        self.clock = clock
        self._before = 0.0
        self._start: float | None = clock()

    def restart(self) -> None:
        """Start at zero."""
        self._before, self._start = 0.0, self.clock()

    def pause(self) -> None:
        """Stop, until `resume`."""
        self._before, self._start = self.seconds, None

    def resume(self) -> None:
        """Go on."""
        self._start = self.clock() if self._start is None else self._start

    @property
    def seconds(self) -> float:
        """The seconds so far, without pauses."""
        return self._before + (0.0 if self._start is None else self.clock() - self._start)
