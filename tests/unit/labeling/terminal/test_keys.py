"""Keys that were not meant, and the time a pair was looked at."""

import pytest

from tiltlm.labeling.terminal.keys import HOLD, MIN_SHOWN, REPEAT, KeyGuard, Stopwatch


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_key_counts_when_the_pair_was_there_long_enough(clock):
    guard = KeyGuard(clock)
    assert not guard.counts("1")
    clock.now += MIN_SHOWN
    assert guard.counts("2")
    guard.show()
    clock.now += MIN_SHOWN / 2
    assert not guard.counts("0")
    assert guard.counts("u", is_vote=False)


@pytest.mark.parametrize("delay", [0.2, 0.25, 0.4, 0.5, 0.66])
@pytest.mark.parametrize("interval", [0.02, 0.033, 0.09])
def test_a_key_that_is_held_counts_once(clock, delay, interval):
    guard = KeyGuard(clock)
    clock.now += 3
    assert guard.counts("1")
    guard.show()
    clock.now += delay
    for _ in range(200):
        assert not guard.counts("1")
        clock.now += interval
    clock.now += REPEAT  # it was released
    assert guard.counts("1")


def test_two_votes_a_second_count(clock):
    guard = KeyGuard(clock)
    for key in "1212":
        clock.now += 0.5
        assert guard.counts(key)
        guard.show()
    clock.now += HOLD
    assert guard.counts("2")


def test_the_second_key_of_a_vote_may_be_the_same(clock):
    guard = KeyGuard(clock)
    clock.now += 3
    assert guard.counts("1")
    clock.now += REPEAT / 2
    assert not guard.counts("1", is_second=True)
    clock.now += REPEAT
    assert guard.counts("1", is_second=True)


def test_the_stopwatch_leaves_pauses_out(clock):
    watch = Stopwatch(clock)
    clock.now += 2
    watch.pause()
    clock.now += 5
    watch.pause()
    assert watch.seconds == 2
    watch.resume()
    clock.now += 1
    watch.resume()
    assert watch.seconds == 3
    watch.restart()
    assert watch.seconds == 0
