"""Rates are kept in any minute, and waits are as the server wants them."""

import pytest

from support.fake_server import StoppedTime
from tiltlm.judging.language.limits import LONGEST_WAIT, Breaker, Bucket, Clock, retry_after, wait_before


@pytest.fixture
def time():
    return StoppedTime()


@pytest.fixture
def clock(time):
    return Clock(time.now, time.sleep, lambda: 100.0, lambda low, high: high)


def test_a_bucket_keeps_its_rate(time, clock):
    bucket, taken = Bucket(60, clock), []
    for _ in range(200):
        bucket.take(1)
        taken.append(time.time)
    assert taken[:60] == [0] * 60, "a full bucket at first"
    assert taken[60:] == pytest.approx(range(1, 141)), "then one a second"


def test_a_request_above_the_rate_waits_for_a_full_bucket(time, clock):
    bucket = Bucket(100, clock)
    bucket.take(250)
    assert time.time == 0
    bucket.take(100)
    assert time.time == pytest.approx(150), "150 units of debt at 100 a minute, then a full bucket: 250 / 100 minutes"


def test_an_estimate_is_corrected(time, clock):
    bucket = Bucket(60, clock)
    bucket.take(60)
    bucket.correct(-30)
    bucket.take(30)
    assert time.time == 0
    bucket.correct(10)
    bucket.take(1)
    assert time.time == pytest.approx(11)


def test_without_a_rate_nothing_waits(time, clock):
    bucket = Bucket(None, clock)
    bucket.take(1e9)
    bucket.correct(5)
    assert time.slept == []


def test_waits_double_up_to_a_limit_and_add_to_what_is_ordered(clock):
    assert [wait_before(k, None, clock) for k in range(1, 5)] == [0.5, 1, 2, 4]
    assert wait_before(50, None, clock) == LONGEST_WAIT
    assert wait_before(1, 20.0, clock) == 20.5
    lowest = Clock(uniform=lambda low, high: low)
    assert wait_before(9, None, lowest) == 0, "full jitter: any wait down to none"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("3", 3.0),
        ("0.25", 0.25),
        ("-1", 0.0),
        ("Thu, 01 Jan 1970 00:01:50 GMT", 10.0),
        ("Thu, 01 Jan 1970 00:00:10 GMT", 0.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(header, seconds, clock):
    assert retry_after(header, clock) == seconds


def test_one_success_closes_the_breaker():
    breaker = Breaker(limit=3)
    assert [breaker.record(ok) for ok in (False, False, True, False, False, False)] == [False] * 5 + [True]
