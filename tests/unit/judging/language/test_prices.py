"""A price that is not in the file is unknown, never 0."""

import pytest

from support.errors import raises
from tiltlm.core import ConfigError
from tiltlm.judging.language.prices import Price, read_price


def test_prices_are_for_a_million_tokens(tmp_path):
    path = tmp_path / "prices.yaml"
    path.write_text("small: {input: 0.15, output: 0.6}\nfree: {input: 0, output: 0}\n")
    assert read_price(str(path), "small").of(2_000_000, 500_000) == pytest.approx(0.6)
    assert read_price(str(path), "free") == Price(0, 0)
    assert read_price(str(path), "large") is None
    assert read_price(None, "small") is None


@pytest.mark.parametrize(
    "text",
    ["- 1", "m: 3", "m: {input: 1}", "m: {input: x, output: 1}", "m: {input: -1, output: 1}",
     "m: {input: .inf, output: 1}",
     "m: {input: true, output: 1}"],
)  # fmt: skip
def test_what_is_no_price_is_refused(text, tmp_path):
    path = tmp_path / "prices.yaml"
    path.write_text(text)
    with raises(ConfigError, "wrong_type", key="judge.prices"):
        read_price(str(path), "m")


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with raises(ConfigError, "no_such_path"):
        read_price(str(tmp_path / "none.yaml"), "m")
    (tmp_path / "bad.yaml").write_text("m: {")
    with raises(ConfigError, "damaged"):
        read_price(str(tmp_path / "bad.yaml"), "m")
