"""Numbers and words as the pages of the admin show them."""

import math
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup, escape
from starlette.templating import Jinja2Templates

from tiltlm.estimates.intervals import Interval
from tiltlm.labeling.monitor import words
from tiltlm.labeling.store.database import storable

NONE = "–"
CHOICES = {"a": "a", "b": "b", "tie": "tie", "both_bad": "both bad", "skip": "skipped"}


def percent(value: float | Interval | None) -> str:
    """Return a share: `74 %`, with its interval where it has one: `74 % (66 to 81)`."""
    if value is None:
        return NONE
    if isinstance(value, Interval):
        has_ends = not math.isnan(value.low)
        return words.percent(value.estimate) + (
            f" ({100 * value.low:.0f} to {100 * value.high:.0f})" if has_ends else ""
        )
    return words.percent(value)


def decimal(value: float | Interval | None, decimals: int = 2) -> str:
    """Return a number, with its interval where it has one, and with a true minus sign."""
    if value is None:
        return NONE
    if isinstance(value, Interval):
        text = f"{value.estimate:.{decimals}f} ({value.low:.{decimals}f} to {value.high:.{decimals}f})"
    else:
        text = f"{value:.{decimals}f}"
    return text.replace("-", "−")


def count(value: float | None) -> str:
    """Return a whole number."""
    return NONE if value is None else f"{round(value):,}"


def when(time: float) -> str:
    """Return a time in UTC, to the minute."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M")


def seen(value: Any) -> str:
    """Return a text of people or models without what HTML cannot hold."""
    return storable(str(value))


def sentence(value: Any) -> str:
    """Return a text with its first letter in upper case."""
    text = seen(value)
    return text[:1].upper() + text[1:]


def two_lines(text: str) -> Markup:
    """Return what `percent` or `decimal` gave, with the interval on a line of its own."""
    value, bracket, rest = text.partition(" (")
    return Markup('{}<span class="two">{}</span>').format(value, rest.removesuffix(")")) if bracket else escape(text)


def add_filters(templates: Jinja2Templates) -> None:
    """Give templates these functions."""
    for function in (percent, decimal, count, when, words.probability, seen, sentence, two_lines):
        templates.env.filters[function.__name__] = function
    templates.env.globals["CHOICES"] = CHOICES
