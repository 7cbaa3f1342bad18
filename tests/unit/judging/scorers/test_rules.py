"""Rules: the right answer, the right number, a pattern, a schema."""

import json
from fractions import Fraction

import pytest

from support.errors import raises
from tiltlm.core import ConfigError
from tiltlm.judging import Item, build_judge
from tiltlm.judging.scorers.rules import last_box, numbers


def score(judge, response, **row):
    (found,) = build_judge(judge).score([Item("p", response, row)])
    return found.value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,000 apples", [Fraction(1000)]),
        ("12,34 and 1,234,567.5", [12, 34, Fraction(2469135, 2)]),
        ("-2.5 and −3", [Fraction(-5, 2), -3]),
        ("2-3", [2, 3]),
        ("$1,250.00", [1250]),
        (r"\frac{3}{4} of it, -\dfrac{1}{8}", [Fraction(3, 4), Fraction(-1, 8)]),
        ("3/4", [Fraction(3, 4)]),
        ("1e-3 and 2.5E4", [Fraction(1, 1000), 25000]),
        (".5", [Fraction(1, 2)]),
        ("5/0 and 1e999999999", []),
        ("none", []),
    ],
)
def test_numbers_are_read_exactly(text, expected):
    assert numbers(text) == expected


@pytest.mark.parametrize(
    ("response", "right", "expected"),
    [
        ("It is 42.", 42, 1),
        ("First 7, then 42", "42", 1),
        ("42, no: 43", 42, 0),
        (r"so \boxed{1{,}000} or \boxed{\frac{1}{2}} it is, not 9", "0.5", 1),
        ("steps 1 2 3 #### 1,000", 1000, 1),
        ("steps", 1, 0),
        ("0.3333333", r"\frac{1}{3}", 1),
        ("0.333", r"\frac{1}{3}", 0),
        ("1000001", 1000000, 1),
        ("1000002", 1000000, 0),
    ],
)
def test_the_last_number_counts(response, right, expected):
    assert score("numeric", response, answer=right) == expected


def test_the_tolerance_and_the_pattern_of_an_answer():
    assert score({"kind": "numeric", "tolerance": 0.01}, "0.333", answer="1/3") == 1
    judge = {"kind": "numeric", "pattern": r"Answer: (\S+)"}
    assert score(judge, "Answer: 3. Answer: 4\nMaybe 5", answer=4) == 1
    assert score(judge, "It is 4", answer=4) == 0


@pytest.mark.parametrize(
    ("response", "expected"),
    [("New  York\n", 1), ("new york", 0), (r"I say \boxed{New York}.", 1), ("#### New York", 1), ("In New York", 0)],
)
def test_the_exact_answer(response, expected):
    assert score("exact", response, answer="New York") == expected


def test_an_exact_answer_by_a_pattern():
    judge = {"kind": "exact", "pattern": "answer is (.*?)[.]", "column": "right"}
    assert score(judge, "The answer is B. The answer is A.", right="A") == 1
    assert score(judge, "A", right="A") == 0


@pytest.mark.parametrize("kind", ["exact", "numeric", "tests"])
def test_a_row_without_a_right_answer_is_an_error(kind):
    (found,) = build_judge(kind).score([Item("p", "42", {"other": 1})])
    assert found.value is None
    assert repr("tests" if kind == "tests" else "answer") in found.error


def test_braces_inside_a_box_belong_to_it():
    assert last_box(r"\boxed{1} and \boxed{\frac{1}{2}} end") == r"\frac{1}{2}"
    assert last_box(r"\boxed{1") is None
    assert last_box("none") is None


def test_a_pattern_is_searched():
    assert [score("regex:^yes", text) for text in ("yes, sure", "oh yes")] == [1, 0]
    with raises(ConfigError, "wrong_type", key="judge.pattern"):
        build_judge("regex:(")


def test_a_schema(tmp_path):
    pytest.importorskip("jsonschema")
    file = tmp_path / "schema.json"
    judge = f"json_schema:{file}"
    with raises(ConfigError, "no_such_path", key="judge.schema"):
        build_judge(judge)
    file.write_text(json.dumps({"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}))
    assert score(judge, '{"n": 1}') == 1
    assert score(judge, 'Here:\n```json\n{"n": 1}\n```\nDone.') == 1
    assert [score(judge, text) for text in ('{"n": "1"}', "{}", "no json", "[" * 100_000)] == [0, 0, 0, 0]
    file.write_text('{"type": "nothing"}')
    with raises(ConfigError, "wrong_type", key="judge.schema"):
        build_judge(judge)
    file.write_text("{")
    with raises(ConfigError, "wrong_type", key="judge.schema"):
        build_judge(judge)


def test_the_digest_names_what_the_score_depends_on():
    digests = {
        build_judge(judge).digest
        for judge in (
            "numeric", "exact", "numeric:right", {"kind": "numeric", "tolerance": 0.1},
            {"kind": "numeric", "pattern": "x"}, "regex:a", "regex:b",
        )
    }  # fmt: skip
    assert len(digests) == 7
