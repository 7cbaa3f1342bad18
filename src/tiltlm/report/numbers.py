"""Numbers as text: as many digits as the interval supports, with units; NaN is never shown as 0."""

import math

from tiltlm.estimates.intervals import Interval

MINUS = "\N{MINUS SIGN}"


def decimals_for(width: float) -> int:
    """Return the decimals that show one digit of this half-width of an interval, two if it begins with 1 or 2."""
    if not math.isfinite(width) or width <= 0:
        return 2
    exponent = math.floor(math.log10(width))
    digits = 2 if width < 3 * 10**exponent else 1
    return min(6, max(0, digits - 1 - exponent))


def format_number(value: float | None, decimals: int | None = None, *, signed: bool = False) -> str:
    """Return a number with a true minus sign; without `decimals`, three significant digits. None is a dash."""
    if value is None:
        return "–"
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    if decimals is None:
        decimals = 0 if abs(value) >= 100 else min(6, 2 - math.floor(math.log10(abs(value)))) if value else 0
    text = f"{value:+,.{decimals}f}" if signed else f"{value:,.{decimals}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("+-")  # "−0.0" would claim a sign
    return text.replace("-", MINUS)


def estimate(interval: Interval, *, percent: bool = False, signed: bool = False, decimals: int | None = None) -> str:
    """Return the estimate: `63 %`, `0.31`. A signed share is a difference of shares, in points: `+13 pts`."""
    scale = 100 if percent else 1
    unit = "" if not percent else "\N{NO-BREAK SPACE}pts" if signed else "\N{NO-BREAK SPACE}%"
    digits = supported(interval, percent=percent) if decimals is None else decimals
    return format_number(interval.estimate * scale, digits, signed=signed) + unit


def bounds(interval: Interval, *, percent: bool = False, signed: bool = False, decimals: int | None = None) -> str:
    """Return the interval: `57 to 69`. It is empty if the interval is unknown or has no width."""
    if math.isnan(interval.low) or math.isnan(interval.high) or interval.low == interval.high:
        return ""
    scale = 100 if percent else 1
    digits = supported(interval, percent=percent) if decimals is None else decimals
    low, high = (format_number(x * scale, digits, signed=signed) for x in (interval.low, interval.high))
    return f"{low} to {high}"


def with_bounds(interval: Interval, *, percent: bool = False, signed: bool = False, decimals: int | None = None) -> str:
    """Return estimate and interval for a sentence: `63 % (57 to 69)`."""
    inner = bounds(interval, percent=percent, signed=signed, decimals=decimals)
    outer = estimate(interval, percent=percent, signed=signed, decimals=decimals)
    return outer + (f" ({inner})" if inner else "")


def share(value: float) -> str:
    """Return a share as a percentage: `4.2 %`. A small share is not rounded to 0."""
    percent = 100 * value
    text = format_number(percent, 1 if 0 < percent < 99.95 else 0) if percent == 0 or percent >= 0.05 else "< 0.1"
    return f"{text}\N{NO-BREAK SPACE}%"


def supported(interval: Interval, *, percent: bool = False) -> int:
    """Return the decimals that an interval supports, and enough that no bound other than 0 is shown as 0."""
    scale = 100 if percent else 1
    low, high = interval.low * scale, interval.high * scale
    if not (high > low or math.isnan(high - low)):
        return 0 if float(interval.estimate * scale).is_integer() else 2
    decimals = decimals_for((high - low) / 2)
    nearest = min(abs(low), abs(high))
    while 0 < nearest < 0.5 * 10**-decimals and decimals < 4:
        decimals += 1
    return decimals
