"""Numbers as text."""

import math

import pytest

from tiltlm.diagnostics import Interval
from tiltlm.report.numbers import bounds, decimals_for, estimate, format_number, share, with_bounds

NAN = math.nan


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (NAN, "not a number"), (math.inf, "∞"), (-math.inf, "−∞"), (0.0, "0"), (-0.0, "0"),
        (0.12345, "0.123"), (-1.5, "−1.50"), (1234.5, "1,234"), (0.00001234, "0.000012"),
    ],
)  # fmt: skip
def test_number(value, text):
    assert format_number(value) == text


def test_a_rounded_zero_has_no_sign():
    assert format_number(-0.001, 2) == "0.00"
    assert format_number(-0.001, 2, signed=True) == "0.00"
    assert format_number(0.5, 1, signed=True) == "+0.5"


@pytest.mark.parametrize(("width", "decimals"), [(62, 0), (6.2, 0), (1.4, 1), (0.29, 2), (0.31, 1), (0.015, 3), (0, 2)])
def test_the_interval_says_how_many_digits_are_known(width, decimals):
    assert decimals_for(width) == decimals


def test_estimate_and_bounds_agree_in_digits():
    found = Interval(0.6312, 0.57, 0.691, 0.95, 170)
    assert estimate(found, percent=True) == "63\N{NO-BREAK SPACE}%"
    assert bounds(found, percent=True) == "57 to 69"
    assert with_bounds(found) == "0.63 (0.57 to 0.69)"


def test_a_bound_that_is_not_zero_does_not_look_like_zero():
    assert with_bounds(Interval(0.7, 0.012, 1.6, 0.95, 50)) == "0.70 (0.01 to 1.60)"
    assert with_bounds(Interval(0.7, -0.012, 1.6, 0.95, 50)) == "0.70 (−0.01 to 1.60)"
    assert with_bounds(Interval(0.7, 0.0, 1.6, 0.95, 50)) == "0.7 (0.0 to 1.6)"
    assert with_bounds(Interval(0.7, 1e-12, 1.6, 0.95, 50)).startswith("0.7000 (0.0000")


def test_a_difference_of_shares_is_in_points():
    found = Interval(0.1312, 0.12, 0.15, 0.95, 170)
    assert estimate(found, percent=True, signed=True) == "+13.1\N{NO-BREAK SPACE}pts"


def test_an_unknown_interval_is_left_out():
    assert with_bounds(Interval(1.5, NAN, NAN, 0.95, 1)) == "1.50"
    assert bounds(Interval(0.0, 0.0, 0.0, 0.95, 9)) == ""
    assert estimate(Interval(NAN, NAN, NAN, 0.95, 1)) == "not a number"


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 %"), (1, "100 %"), (0.125, "12.5 %"), (0.0001, "< 0.1 %"), (0.9999, "100 %")]
)
def test_share(value, text):
    assert share(value).replace("\N{NO-BREAK SPACE}", " ") == text
