"""The headline of an audit's page."""

from importlib import resources

import pytest

from tiltlm.diagnostics import Interval
from tiltlm.report.answers.audit import verdict_on


@pytest.mark.parametrize(
    ("low", "high", "colour"),
    [(0.6, 0.8, "better"), (0.2, 0.4, "worse"), (0.45, 0.6, "unclear"), (0.5, 0.9, "unclear")],
)
def test_the_interval_decides_the_headline(low, high, colour):
    assert verdict_on(Interval((low + high) / 2, low, high, 0.95, 100))[1] == colour


def test_decided_headlines_have_a_colour_of_their_own():
    style = (resources.files("tiltlm.report") / "templates" / "style.css").read_text(encoding="utf-8")
    for colour in ("better", "worse"):
        assert f".verdict.{colour}" in style
