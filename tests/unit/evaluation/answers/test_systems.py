"""Answers brought side by side: by content, refused where they do not belong together."""

import pytest

from support.answered import row, system
from support.errors import raises
from tiltlm.core import ConfigError, DataError
from tiltlm.evaluation.answers.systems import System, align, is_refusal, prompt_key


def test_prompts_are_matched_by_content_not_by_id():
    a = System("a", (row("p", "x", identity="1"), row("q", "y", identity="2")))
    b = System("b", (row(({"role": "user", "content": "q"},), "z", identity="z9"), row(" p ", "w")))
    found = align([a, b])
    assert len(found.prompts) == 2
    assert found.rows["b", None, prompt_key("q")].answers == ("z",)


def test_a_system_prompt_makes_another_prompt():
    turns = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "q"})
    assert prompt_key(turns) != prompt_key("q")


def test_different_prompts_are_refused_with_names():
    with raises(DataError, code="other_prompts", key="systems", row="r") as caught:
        align([system("a", {"p": "x", "r": "x"}), system("b", {"p": "y"})])
    assert "r" in str(caught.value)


def test_two_rows_for_one_prompt_are_refused():
    with raises(DataError, code="duplicate", row="second"):
        align([System("a", (row("p", "x"), row("p", "y", identity="second"))), system("b", {"p": "y"})])


@pytest.mark.parametrize(
    ("systems", "code"),
    [
        ([system("a", {"p": "x"})], "too_few_systems"),
        ([system("a", {"p": "x"}), system("a", {"p": "y"})], "duplicate"),
    ],
)
def test_a_comparison_needs_two_systems_with_names(systems, code):
    with raises(ConfigError, code=code, key="systems"):
        align(systems)


def test_no_answers_are_refused():
    with raises(DataError, code="empty"):
        align([System("a", ()), system("b", {"p": "x"})])


def test_given_answers_take_part_at_every_temperature():
    drawn = System("drawn", tuple(row("p", f"at {t}", temperature=t) for t in (1.0, 0.0)))
    found = align([drawn, system("given", {"p": "fixed"})])
    assert found.temperatures == (0.0, 1.0)
    assert {found.rows["given", t, prompt_key("p")].answers for t in (0.0, 1.0)} == {("fixed",)}
    assert found.rows["drawn", 0.0, prompt_key("p")].answers == ("at 0.0",)


def test_other_temperatures_are_refused():
    a = System("a", tuple(row("p", "x", temperature=t) for t in (0.0, 1.0)))
    b = System("b", tuple(row("p", "x", temperature=t) for t in (0.0, 0.5)))
    with raises(ConfigError, code="other_temperatures", key="temperatures"):
        align([a, b])
    missing = System(
        "c", (row("p", "x", temperature=0.0), row("q", "x", temperature=0.0), row("p", "x", temperature=1.0))
    )
    with raises(DataError, code="missing_value"):
        align([missing, system("given", {"p": "x", "q": "y"})])


def test_refusals_by_their_opening():
    assert is_refusal("I\N{RIGHT SINGLE QUOTATION MARK}m sorry, but no.")
    assert is_refusal("  As an AI, I have no feelings")
    assert not is_refusal("Here you are. I'm sorry it took so long.")
