"""How fast and how often a server is asked: buckets of requests and tokens, waiting times, a circuit breaker."""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

FIRST_WAIT = 0.5
"""Seconds: the longest first wait. It doubles with every attempt."""
LONGEST_WAIT = 60.0
LONGEST_ORDERED = 300.0
"""Seconds of the longest `Retry-After` that is waited for."""
MAX_FAILURES = 5
"""Requests in a row that may fail, each after all of its attempts."""


@dataclass(frozen=True)
class Clock:
    """Time and chance, which tests replace."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    wall: Callable[[], float] = time.time
    uniform: Callable[[float, float], float] = random.uniform


class Bucket:
    """A budget that refills at a steady rate: at most `per_minute` units in a minute, after a first full bucket."""

    def __init__(self, per_minute: float | None, clock: Clock) -> None:
        """Make a full bucket; without a rate it never waits."""
        self._rate = None if per_minute is None else per_minute / 60
        self._capacity = per_minute or 0.0
        self._level = self._capacity
        self._clock = clock
        self._at = clock.now()
        self._lock = threading.Lock()

    def take(self, amount: float) -> None:
        """Wait until there is enough, and take it. More than a full bucket is taken when the bucket is full."""
        if self._rate is None:
            return
        while True:
            with self._lock:
                self._refill()
                missing = min(amount, self._capacity) - self._level
                if missing <= 1e-9:
                    self._level -= amount
                    return
            self._clock.sleep(missing / self._rate)

    def correct(self, amount: float) -> None:
        """Take more, or give back where negative: an estimate became known."""
        if self._rate is not None:
            with self._lock:
                self._refill()
                self._level = min(self._capacity, self._level - amount)

    def _refill(self) -> None:
        now = self._clock.now()
        assert self._rate is not None
        self._level = min(self._capacity, self._level + (now - self._at) * self._rate)
        self._at = now


@dataclass
class Breaker:
    """Counts failures in a row. One success sets it back."""

    limit: int = MAX_FAILURES
    _count: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def record(self, succeeded: bool) -> bool:
        """Count one request, and return whether there were too many failures."""
        with self._lock:
            self._count = 0 if succeeded else self._count + 1
            return self._count >= self.limit


def wait_before(attempt: int, ordered: float | None, clock: Clock) -> float:
    """Return the seconds to wait before an attempt: any time up to a limit that doubles, and not less than ordered.

    The wait is drawn from the whole range down to 0 (full jitter), so that clients that failed together do not come
    back together.

    Args:
        attempt: Number of the attempt that failed, from 1.
        ordered: Seconds that the server wants; None if it says nothing.
        clock: Time and chance.
    """
    drawn = clock.uniform(0.0, min(LONGEST_WAIT, FIRST_WAIT * 2 ** (attempt - 1)))
    return drawn if ordered is None else ordered + drawn


def retry_after(header: str | None, clock: Clock) -> float | None:
    """Return the seconds that a `Retry-After` header asks for; None if it is missing or cannot be read."""
    if not header:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - clock.wall())
    except ValueError:
        return None
